from .job import PAIRS as PAIRS, teach_scores as teach_scores, teach_vectors as teach_vectors
