from .build import build_index as build_index, verify_index as verify_index
from .changes.change import (
    NoPassage as NoPassage,
    add_passages as add_passages,
    delete_passages as delete_passages,
    replace_passages as replace_passages,
)
from .changes.compact import compact_index as compact_index
from .changes.versions import prune_versions as prune_versions
from .codec import ROWS_PER_SHARD as ROWS_PER_SHARD, default_codec as default_codec
from .filters.form import Filter as Filter, OneOf as OneOf, keys_of as keys_of, read_filter as read_filter
from .folder import (
    Manifest as Manifest,
    check_files as check_files,
    encoder_folder as encoder_folder,
    local_files as local_files,
    read_manifest as read_manifest,
)
from .passage_table import canonical as canonical, read_texts as read_texts
from .passages import (
    IndexedPassage as IndexedPassage,
    parse_passage as parse_passage,
    passages_at as passages_at,
    read_passages as read_passages,
    sample_by_language as sample_by_language,
    texts_of as texts_of,
)
from .query import (
    Found as Found,
    Hit as Hit,
    ShardQuery as ShardQuery,
    Stored as Stored,
    depth as depth,
    is_flat as is_flat,
    merge as merge,
)
from .ray_stages import rows_of_actors as rows_of_actors
from .searching.nearest import NearestLists as NearestLists
from .searching.policy import (
    Chosen as Chosen,
    Policy as Policy,
    Ranked as Ranked,
    Stratum as Stratum,
    choose as choose,
    strata_of as strata_of,
)
from .shard import Shard as Shard, open_shard as open_shard
from .terms.counts import open_statistics as open_statistics
from .vectors.given import find_vectors as find_vectors
from .vectors.made import encode_passages as encode_passages
from .vectors.written import VectorsManifest as VectorsManifest
from .writing import BeingWritten as BeingWritten
