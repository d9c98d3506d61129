from .groups import shorten as shorten
from .inputs import prepare_experiment as prepare_experiment
from .lexicon import (
    UNSPACED as UNSPACED,
)
from .lexicon import (
    UNSPACED_CHARACTER as UNSPACED_CHARACTER,
)
from .lexicon import (
    Lexicon as Lexicon,
)
from .lexicon import (
    cldr_lexicon as cldr_lexicon,
)
from .lexicon import (
    code_switch as code_switch,
)
from .lexicon import (
    read_lexicon as read_lexicon,
)
from .prepare import BUCKETS as BUCKETS
from .sources.hub_sources import read_tsv as read_tsv
from .sources.hub_sources import resolve_files as resolve_files
from .sources.hub_sources import title_and_text as title_and_text
from .sources.parallel_text import tatoeba_files as tatoeba_files
from .sources.records import parquet_rows as parquet_rows
from .sources.records import record_files as record_files
from .sources.squad import lareqa_collection as lareqa_collection
from .store import (
    ROWS_PER_BLOCK as ROWS_PER_BLOCK,
)
from .store import (
    Partition as Partition,
)
from .store import (
    Store as Store,
)
from .store import (
    is_store as is_store,
)
from .store import (
    open_store as open_store,
)
from .text_files import (
    check_folder as check_folder,
)
from .text_files import (
    checked_text as checked_text,
)
from .text_files import (
    files_by_language as files_by_language,
)
from .text_files import (
    read_json_lines as read_json_lines,
)
from .text_files import (
    read_lines as read_lines,
)
