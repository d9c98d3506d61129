from .bm25 import (
    RULE as RULE,
    LexicalQuery as LexicalQuery,
    Statistics as Statistics,
    best_rows as best_rows,
    count_terms as count_terms,
    score_passages as score_passages,
)
from .files import (
    LENGTHS as LENGTHS,
    TERMS as TERMS,
    open_postings as open_postings,
    read_statistics as read_statistics,
    write_postings as write_postings,
    write_statistics as write_statistics,
)
from .fusion import FUSIONS as FUSIONS, Fused as Fused, fuse as fuse
from .postings import Postings as Postings, TermTable as TermTable, make_postings as make_postings
