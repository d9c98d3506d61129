"""Line-parallel text: files whose line i is the same sentence in each language.

In: a file a language, and one with the document of each line. Out: a stream of `Group | Rejected`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Literal

from hybrid_ir.data.groups import checked_group, content_passage
from hybrid_ir.data.read_files import read_lines
from hybrid_ir.languages import language_code
from hybrid_ir.types import InputError, Records

Pairing = Literal["translation", "next_sentence"]


def read_parallel_lines(
    files: Mapping[str, str | Path], document_ids: str | Path | None, pairing: Pairing = "translation"
) -> Records:
    """One group a line; `document_ids` has the document of each line.

    translation: query and passage are line i, so the query of one language with the passage of another is a translation
    pair. next_sentence: the query is line i and the passage line i + 1 of the same document. Without `document_ids`,
    which next_sentence needs, every line is its own document.
    """
    if pairing == "next_sentence" and document_ids is None:
        raise InputError("pairing next_sentence needs document_ids: a file with the document of each line")
    coded = {language_code(language): Path(path) for language, path in sorted(files.items())}
    every = [*coded.values(), *([Path(document_ids)] if document_ids else [])]
    counts = [sum(1 for _ in read_lines(path)) for path in every]
    for path, count in zip(every, counts, strict=True):
        if count != counts[0]:
            raise InputError(
                f"{every[0]} has {counts[0]} lines, {path} has {count}; line-parallel files must have as many lines"
            )
    lines = zip(*(read_lines(path) for path in coded.values()), strict=True)
    rows = ((row[0][0], dict(zip(coded, (text for _, text in row), strict=True))) for row in lines)
    documents = (
        (text.strip() for _, text in read_lines(Path(document_ids))) if document_ids else map(str, range(counts[0]))
    )
    numbered = zip(documents, rows, strict=True)
    pairs = pairwise(numbered) if pairing == "next_sentence" else ((row, row) for row in numbered)
    for (document, (number, queries)), (passage_document, (_, texts)) in pairs:
        if document == passage_document:
            passages = {code: [content_passage(code, text)] for code, text in texts.items()}
            yield from checked_group(f"{every[0].name}:{number}", str(number), document, queries, passages)
