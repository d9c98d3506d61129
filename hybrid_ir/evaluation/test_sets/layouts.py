"""Test sets in the three layouts that users have them in: BEIR's folder, TREC's files, and JSON lines of our own.

In: a folder, and for TREC the names of the files. Out: a `JudgedSet`, checked.

- `beir`: `corpus.jsonl` (_id, title, text), `queries.jsonl` (_id, text), `qrels/{split}.tsv` (a header, then query id,
  passage id and grade, between tabs), as BEIR's `GenericDataLoader` reads them.
- `trec`: topics and qrels as in `trec_files`, and passages as JSON lines or as TSV (id, tab, text).
- `judged`: `queries.jsonl` (query_id, text, language), `passages.jsonl` (doc_id, text, language) and
  `judgements.jsonl` (query_id, doc_id, grade).

A JSON record may say its language, under `language` or, as BEIR's records have it, under `metadata`. Each file may end
in .gz. A passage's text is its title and its text with a space between, as BEIR joins them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hybrid_ir.data import check_folder, checked_text, id_text, read_json_lines, read_lines, read_tsv, title_and_text
from hybrid_ir.evaluation.test_sets.judged_set import (
    UNDETERMINED,
    JudgedSet,
    Judgement,
    LanguageText,
    check_set,
    grade_of,
    tagged_language,
)
from hybrid_ir.evaluation.test_sets.trec_files import read_qrels, read_topics
from hybrid_ir.types import OUTER_SPACE, InputError, one_line

TEST_SETS = ("beir", "trec", "judged")
PASSAGE_IDS = ("doc_id", "docid", "_id", "id")
"""Under which names a passage's id is looked for, in this order: MIRACL, BEIR and Pyserini have one each."""


def load_test_set(
    name: str,
    path: str,
    *,
    split: str | None = None,
    languages: Sequence[str] | None = None,
    language: str | None = None,
    topics: str | None = None,
    qrels: str | None = None,
    corpus: str | None = None,
) -> JudgedSet:
    """The test set at a folder. `language` is that of every text which does not say its own; None = undetermined.

    `split` is BEIR's, test by default. `topics`, `qrels` and `corpus` are TREC's files, by their paths from the folder.
    Raises InputError as `check_set` does, and for a missing file or a malformed line, naming it.
    """
    root = check_folder(path)
    own = UNDETERMINED if language is None else tagged_language(language, "--language")
    match name:
        case "beir":
            return check_set(
                read_texts(_file(root, "queries.jsonl"), ["_id"], own),
                _beir_qrels(_file(root, f"qrels/{split or 'test'}.tsv")),
                lambda: read_texts(_file(root, "corpus.jsonl"), ["_id"], own),
                languages,
                own_ids_are_no_answer=True,
            )
        case "trec":
            if topics is None or qrels is None or corpus is None:
                raise InputError(
                    "trec needs --topics, --qrels and --corpus: the files' names, from the folder of --path"
                )
            return check_set(
                read_topics(_file(root, topics), own),
                read_qrels(_file(root, qrels)),
                lambda: _trec_passages(_file(root, corpus), own),
                languages,
            )
    return check_set(
        read_texts(_file(root, "queries.jsonl"), ["query_id"], own),
        _own_judgements(_file(root, "judgements.jsonl")),
        lambda: read_texts(_file(root, "passages.jsonl"), ["doc_id"], own),
        languages,
    )


def read_texts(path: Path, ids: Sequence[str], language: str) -> Iterator[LanguageText]:
    """Texts of JSON lines, as `texts_of` takes them from a record."""
    return texts_of(read_json_lines(path), ids, language)


def texts_of(
    records: Iterable[tuple[str, Mapping[str, Any]]], ids: Sequence[str], language: str
) -> Iterator[LanguageText]:
    """Texts of records: the id under the first of `ids` that a record has, the text under text or contents.

    `records` come with their places. `language` is that of a text which does not say its own.
    """
    for where, record in records:
        text_id = id_text(next((record[name] for name in ids if name in record), None))
        text, title = record.get("text", record.get("contents")), record.get("title")
        if text_id is None or not isinstance(text, str) or not isinstance(title, str | None):
            raise InputError(
                f"{where} needs {' or '.join(ids)}, and text: found {', '.join(record) or 'nothing'}; "
                "correct the line, or take it out"
            )
        joined = title_and_text({"title": title, "text": text}).strip(OUTER_SPACE)
        checked_text(where, text_id)
        yield LanguageText(text_id, _language(record, where, language), checked_text(where, joined), where)


def _language(record: Mapping[str, Any], where: str, default: str) -> str:
    metadata = record.get("metadata")
    tag = record.get("language") or (metadata.get("language") if isinstance(metadata, dict) else None)
    return tagged_language(tag, where) if tag else default


def _file(root: Path, name: str) -> Path:
    """The file of that name below the folder, or the same with .gz."""
    packed = root / f"{name}.gz"
    return packed if packed.is_file() and not (root / name).is_file() else root / name


def _beir_qrels(path: Path) -> Iterator[Judgement]:
    rows = csv.reader((line for _, line in read_lines(path)), delimiter="\t")
    try:
        for row in rows:
            where = f"{path}:{rows.line_num}"
            grade = grade_of(row[2]) if len(row) == 3 else None
            if rows.line_num == 1:  # BEIR passes over the first line, whatever it is
                if grade is not None:
                    raise InputError(
                        f"{where} is a judgement, and must be the header: query-id, corpus-id, score; add it"
                    )
            elif grade is None:
                raise InputError(
                    f"{where} is not a judgement (query-id, tab, corpus-id, tab, score): {' '.join(row)[:80]!r}; "
                    "copy it again"
                )
            else:
                yield Judgement(checked_text(where, row[0]), checked_text(where, row[1]), grade, where)
    except csv.Error as error:
        raise InputError(f"{path}:{rows.line_num} is not tab-separated ({one_line(error)}); copy it again") from None


def _trec_passages(path: Path, language: str) -> Iterator[LanguageText]:
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "jsonl":
        yield from read_texts(path, PASSAGE_IDS, language)
        return
    if kind != "tsv":
        raise InputError(f"passages must be .jsonl or .tsv, plain or .gz, got {path.name}; write them as one of these")
    for place, fields in read_tsv(path, 2):
        where = f"{path.parent}/{place}"
        if len(fields) != 2:
            raise InputError(f"{where} is not a passage (id, tab, text): {fields[0][:80]!r}; copy it again")
        yield LanguageText(
            checked_text(where, fields[0]), language, checked_text(where, fields[1].strip(OUTER_SPACE)), where
        )


def _own_judgements(path: Path) -> Iterator[Judgement]:
    names = ("query_id", "doc_id", "grade")
    return judgements_of(read_json_lines(path), names, "correct the line, or take it out")


def judgements_of(
    records: Iterable[tuple[str, Mapping[str, Any]]], names: tuple[str, str, str], advice: str
) -> Iterator[Judgement]:
    """Judgements of records, which come with their places. `names` are those of the query, the passage and the grade.

    Raises InputError for a record that is none, and ends it with the advice.
    """
    query, passage, grade_name = names
    for where, record in records:
        query_id, doc_id, given = id_text(record.get(query)), id_text(record.get(passage)), record.get(grade_name)
        grade = None if isinstance(given, str) else grade_of(given)
        if query_id is None or doc_id is None or grade is None:
            raise InputError(
                f"{where} is not a judgement ({query}, {passage}, and a whole number as {grade_name}): "
                f"found {', '.join(record) or 'nothing'}; {advice}"
            )
        yield Judgement(checked_text(where, query_id), checked_text(where, doc_id), grade, where)
