"""Line-parallel text: files whose line i is the same sentence (NTREX), and Tatoeba's pairs with English."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

from hybrid_ir.data.groups import checked_group, content_passage, shorten
from hybrid_ir.data.text_files import check_folder, files_by_language, read_lines
from hybrid_ir.languages import language_code
from hybrid_ir.types import Group, InputError, Records, Rejected


def read_parallel_lines(
    files: Mapping[str, str | Path],
    document_ids: str | Path | None,
    pairing: Literal["translation", "next_sentence"] = "translation",
) -> Records:
    """Text whose line i is the same sentence in every file; `document_ids` has the document of each line.

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
        where = f"{every[0].name}:{number}"
        if document == passage_document:
            passages = {code: content_passage(code, text) for code, text in texts.items()}
            yield from checked_group(where, str(number), document, queries, passages)


def read_ntrex(
    folder: str | Path,
    languages: Sequence[str] | None = None,
    pairing: Literal["translation", "next_sentence"] = "translation",
) -> Records:
    """NTREX-128 in its upstream layout, with the documents of `DOCUMENT_IDS.tsv`."""
    yield from read_parallel_lines(ntrex_files(folder, languages), Path(folder) / "DOCUMENT_IDS.tsv", pairing)


def ntrex_files(folder: str | Path, languages: Sequence[str] | None = None) -> dict[str, Path]:
    """File of each language of an NTREX-128 folder. Of variants (eng-GB, eng-IN), the source or plainest one."""
    found = []
    for path in check_folder(folder).glob("newstest2019-*.txt"):
        kind, _, tag = path.name.removeprefix("newstest2019-").removesuffix(".txt").partition(".")
        found.append(((kind != "src", len(tag), tag), tag, path))
    return files_by_language([(tag, path) for _, tag, path in sorted(found)], languages, folder)


def read_tatoeba(folder: str | Path, languages: Sequence[str] | None = None) -> Records:
    """Tatoeba pairs with English: query and passage are the same sentence, each in two languages.

    A document is an English sentence: one that occurs in several files is one document, and one passage.
    """
    for code, path, english_path in tatoeba_files(folder, languages):
        for record in read_parallel_lines({code: path, "en": english_path}, None):
            if isinstance(record, Rejected):
                yield record
            elif "en" not in record.passages:
                yield Rejected(f"{path.name}:{record.group_id}", "no English sentence", shorten(record.queries))
            else:
                document = record.passages["en"].doc_id
                yield Group(f"{code}/{record.group_id}", document, record.queries, record.passages)


def tatoeba_files(folder: str | Path, languages: Sequence[str] | None = None) -> list[tuple[str, Path, Path]]:
    """(language, its file, the English file) of each `tatoeba.{xxx}-eng` pair of the folder, sorted by language."""
    found = []
    for path in sorted(check_folder(folder).glob("tatoeba.*-eng.*")):
        tag = path.name.split(".")[1].removesuffix("-eng")
        if not path.name.endswith(".eng"):
            found.append((tag, path))
    wanted = None if languages is None else [code for code in languages if language_code(code) != "en"]
    files = files_by_language(found, wanted, folder)
    return [(code, path, path.with_suffix(".eng")) for code, path in sorted(files.items())]
