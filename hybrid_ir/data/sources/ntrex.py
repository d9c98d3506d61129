"""NTREX-128: news that is line-parallel in 128 languages, with the document of each line.

In: the upstream folder (`newstest2019-*.txt`, `DOCUMENT_IDS.tsv`). Out: a stream of `Group | Rejected`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hybrid_ir.data.find_files import LanguageFiles, check_folder, files_by_language
from hybrid_ir.data.sources.parallel_lines import Pairing, read_parallel_lines
from hybrid_ir.types import Records


def read_ntrex(folder: str | Path, languages: Sequence[str] | None = None, pairing: Pairing = "translation") -> Records:
    """One group a line, paired as `read_parallel_lines` says."""
    files, left_out = ntrex_files(folder, languages)
    yield from left_out
    yield from read_parallel_lines(files, Path(folder) / "DOCUMENT_IDS.tsv", pairing)


def ntrex_files(folder: str | Path, languages: Sequence[str] | None = None) -> LanguageFiles:
    """File of each language: the English source, and of translations the first (Spanish has a `ref-2` too)."""
    paths = [path for kind in ("src", "ref") for path in check_folder(folder).glob(f"newstest2019-{kind}.*.txt")]
    return files_by_language([(path.name.split(".")[1], path) for path in sorted(paths)], languages, folder)
