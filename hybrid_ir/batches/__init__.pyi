from .builder import (
    Batch as Batch,
)
from .builder import (
    builder_for as builder_for,
)
from .builder import (
    lexicon_for as lexicon_for,
)
from .builder import (
    plan_for as plan_for,
)
from .builder import (
    slice_sizes as slice_sizes,
)
from .ledger import make_ledger as make_ledger
from .plan import Plan as Plan
from .ray_feed import (
    ChunkIndex as ChunkIndex,
)
from .ray_feed import (
    Waited as Waited,
)
from .ray_feed import (
    in_process_feed as in_process_feed,
)
from .ray_feed import (
    ray_data_feed as ray_data_feed,
)
