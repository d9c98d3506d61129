from .choice import OUTCOMES as OUTCOMES
from .job import (
    CorpusFiles as CorpusFiles,
    LoadedWhereItRuns as LoadedWhereItRuns,
    Run as Run,
    mine_negatives as mine_negatives,
)
from .ray_units import run_on_actors as run_on_actors
from .reranked import Reranking as Reranking
from .rules import RerankerRule as RerankerRule, Rules as Rules, parse_ranks as parse_ranks
