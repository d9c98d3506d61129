from .groups import shorten as shorten
from .inputs import prepare_experiment as prepare_experiment
from .lexicon import (
    UNSPACED as UNSPACED,
    UNSPACED_CHARACTER as UNSPACED_CHARACTER,
    Lexicon as Lexicon,
    cldr_lexicon as cldr_lexicon,
    code_switch as code_switch,
    read_lexicon as read_lexicon,
)
from .prepare import BUCKETS as BUCKETS
from .sources.hub_sources import read_tsv as read_tsv, resolve_files as resolve_files, title_and_text as title_and_text
from .sources.parallel_text import tatoeba_files as tatoeba_files
from .sources.records import parquet_rows as parquet_rows, record_files as record_files
from .sources.squad import lareqa_collection as lareqa_collection
from .store import (
    ROWS_PER_BLOCK as ROWS_PER_BLOCK,
    Partition as Partition,
    Store as Store,
    is_store as is_store,
    open_store as open_store,
)
from .text_files import (
    check_folder as check_folder,
    checked_text as checked_text,
    files_by_language as files_by_language,
    read_json_lines as read_json_lines,
    read_lines as read_lines,
)
