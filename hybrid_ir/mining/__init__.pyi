from .choice import OUTCOMES as OUTCOMES
from .job import mine_negatives as mine_negatives
from .rules import Rules as Rules, parse_ranks as parse_ranks
