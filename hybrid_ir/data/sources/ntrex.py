"""NTREX-128: news that is line-parallel in 128 languages, with the document of each line.

In: the upstream folder (`newstest2019-*.txt`, `DOCUMENT_IDS.tsv`). Out: a stream of `Group | Rejected`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hybrid_ir.data.find_files import check_folder, files_by_language
from hybrid_ir.data.sources.parallel_lines import Pairing, read_parallel_lines
from hybrid_ir.types import Records


def read_ntrex(folder: str | Path, languages: Sequence[str] | None = None, pairing: Pairing = "translation") -> Records:
    """One group a line, paired as `read_parallel_lines` says."""
    yield from read_parallel_lines(ntrex_files(folder, languages), Path(folder) / "DOCUMENT_IDS.tsv", pairing)


def ntrex_files(folder: str | Path, languages: Sequence[str] | None = None) -> dict[str, Path]:
    """File of each language. Of variants (eng-GB, eng-IN), the source or plainest one."""
    found = []
    for path in check_folder(folder).glob("newstest2019-*.txt"):
        kind, _, tag = path.name.removeprefix("newstest2019-").removesuffix(".txt").partition(".")
        found.append(((kind != "src", len(tag), tag), tag, path))
    return files_by_language([(tag, path) for _, tag, path in sorted(found)], languages, folder)
