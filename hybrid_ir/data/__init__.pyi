from .find_files import (
    LanguageFiles as LanguageFiles,
    check_folder as check_folder,
    files_by_language as files_by_language,
    record_files as record_files,
    resolve_files as resolve_files,
)
from .groups import (
    id_text as id_text,
    shorten as shorten,
)
from .lexicon import (
    UNSPACED as UNSPACED,
    UNSPACED_CHARACTER as UNSPACED_CHARACTER,
    Lexicon as Lexicon,
    cldr_lexicon as cldr_lexicon,
    code_switch as code_switch,
    read_lexicon as read_lexicon,
)
from .manifest import (
    FORMAT as FORMAT,
    files_root as files_root,
    is_store as is_store,
)
from .prepare import prepare_experiment as prepare_experiment
from .read_files import (
    checked_text as checked_text,
    parquet_rows as parquet_rows,
    read_json_lines as read_json_lines,
    read_lines as read_lines,
    read_tsv as read_tsv,
)
from .shuffle import BUCKETS as BUCKETS, place_of as place_of
from .sources.lareqa import lareqa_collection as lareqa_collection
from .sources.miracl import title_and_text as title_and_text
from .sources.tatoeba import tatoeba_files as tatoeba_files
from .splits import signature_of as signature_of
from .staging import refuse_existing as refuse_existing, staged as staged, take_over as take_over
from .store import (
    ROWS_PER_BLOCK as ROWS_PER_BLOCK,
    Partition as Partition,
    PartitionWriter as PartitionWriter,
    Store as Store,
    open_store as open_store,
)
from .tables.collections import write_collection as write_collection
from .tables.columns import SCORES as SCORES, VECTORS as VECTORS
