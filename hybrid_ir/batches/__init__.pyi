from .builder import (
    Batch as Batch,
    builder_for as builder_for,
    lexicon_for as lexicon_for,
    plan_for as plan_for,
    slice_sizes as slice_sizes,
)
from .ledger import make_ledger as make_ledger
from .plan import Plan as Plan
from .ray_feed import (
    ChunkIndex as ChunkIndex,
    Waited as Waited,
    in_process_feed as in_process_feed,
    ray_data_feed as ray_data_feed,
)
