"""Tatoeba: sentences with their English translations, the test pairs of LASER v1.

In: a folder of `tatoeba.{xxx}-eng.*`. Out: a stream of `Group | Rejected`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hybrid_ir.data.find_files import LanguageFiles, check_folder, files_by_language
from hybrid_ir.data.groups import shorten
from hybrid_ir.data.sources.parallel_lines import read_parallel_lines
from hybrid_ir.languages import language_code
from hybrid_ir.types import Group, Records, Rejected


def read_tatoeba(folder: str | Path, languages: Sequence[str] | None = None) -> Records:
    """One group a pair: query and passage are the same sentence, each in two languages.

    A document is an English sentence: one that occurs in several files is one document, and one passage.
    """
    files, left_out = tatoeba_files(folder, languages)
    yield from left_out
    for code, path in files.items():
        for record in read_parallel_lines({code: path, "en": path.with_suffix(".eng")}, None):
            if isinstance(record, Rejected):
                yield record
            elif "en" not in record.passages:
                yield Rejected(f"{path.name}:{record.group_id}", "no English sentence", shorten(record.queries))
            else:
                document = record.passages["en"][0].doc_id
                yield Group(f"{code}/{record.group_id}", document, record.queries, record.passages)


def tatoeba_files(folder: str | Path, languages: Sequence[str] | None = None) -> LanguageFiles:
    """The file of each language's side of a `tatoeba.{xxx}-eng` pair; its English side is beside it, as `.eng`.

    Of the 112 codes of upstream's own folder CLDR has no name for six (ber, cbk, max, orv, swg, tzl), and kzj is the
    old code of dtp, which is there too.
    """
    paths = [path for path in sorted(check_folder(folder).glob("tatoeba.*-eng.*")) if path.suffix != ".eng"]
    found = {path.name.split(".")[1].removesuffix("-eng"): path for path in paths}
    old = found.pop("kzj", None) if "dtp" in found else None
    wanted = None if languages is None else [code for code in languages if language_code(code) != "en"]
    files, left_out = files_by_language(found.items(), wanted, folder)
    if old and wanted is None:
        left_out.append(Rejected(old.name, "left out: its language has another file, under its new code", "kzj"))
    return LanguageFiles(files, left_out)
