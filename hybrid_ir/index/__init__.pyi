from .folder import Manifest as Manifest
from .folder import check_files as check_files
from .folder import read_manifest as read_manifest
from .passages import IndexedPassage as IndexedPassage
from .passages import canonical as canonical
from .ray_build import add_passages as add_passages
from .ray_build import build_index as build_index
from .ray_build import verify_index as verify_index
from .shard import (
    Found as Found,
)
from .shard import (
    Shard as Shard,
)
from .shard import (
    ShardQuery as ShardQuery,
)
from .shard import (
    is_flat as is_flat,
)
from .shard import (
    merge as merge,
)
from .shard import (
    open_shard as open_shard,
)
from .stages import ROWS_PER_SHARD as ROWS_PER_SHARD
from .stages import default_codec as default_codec
