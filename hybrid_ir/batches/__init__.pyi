from .batch import (
    Batch as Batch,
    TeacherScores as TeacherScores,
    TeacherVectors as TeacherVectors,
    slice_sizes as slice_sizes,
)
from .feed import Waited as Waited, in_process_feed as in_process_feed
from .from_experiment import (
    builder_for as builder_for,
    lexicon_for as lexicon_for,
    plan_for as plan_for,
    source_shares as source_shares,
    uneven_epochs as uneven_epochs,
)
from .ledger import make_ledger as make_ledger
from .plan import Plan as Plan
from .ray_feed import ChunkIndex as ChunkIndex, ray_data_feed as ray_data_feed
from .tasks import check_tasks as check_tasks, encode_by_role as encode_by_role, roles_of as roles_of
from .teacher import check_dimension as check_dimension
