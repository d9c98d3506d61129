"""The user's own records.

In: JSON lines or Parquet, a file or a folder of them. Out: a stream of `Group | Rejected`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybrid_ir.data.find_files import record_files
from hybrid_ir.data.groups import checked_group, id_text, passage_id, shorten
from hybrid_ir.data.read_files import parquet_rows, read_lines
from hybrid_ir.languages import form_order, language_code, written_form
from hybrid_ir.types import InputError, Passage, Records, Rejected

WIDE_FIELDS = frozenset({"group_id", "document", "queries", "passages", "negatives"})
FLAT_FIELDS = frozenset({"group_id", "document", "language", "query", "passage", "negative"})


def read_records(path: str | Path) -> Records:
    """The user's own groups: a .jsonl, .jsonl.gz or .parquet file, or a folder of them (other files are passed over).

    A record is {"queries": {language: text}, "passages": {language: text or {"doc_id":, "text":}}}, with optional
    "negatives" like passages, "group_id" (default: file and line) and "document" (default: the group_id); or, in one
    language, {"language":, "query":, "passage":} with optional "negative", "group_id" and "document". Where a passage
    or a negative may stand, a list of them may. Null is absent.
    An id may be an integer. Of two forms of a language, such as zh-CN and zh-TW, the usual one is read and the other
    rejected. `prepare` joins records of one group_id.
    """
    root = Path(path)
    for file in record_files(root):
        name = file.name if root.is_file() else file.relative_to(root).as_posix()
        for number, record in parquet_rows(file) if file.suffix == ".parquet" else read_lines(file):
            where = f"{name}:{number}"
            if isinstance(record, str) and not record.strip():
                continue
            try:
                yield from _read_record(record, where)
            except InputError as error:
                yield Rejected(where, str(error), shorten(record))


def _read_record(record: Any, where: str) -> Records:
    """Its group. Raises InputError with the reason to reject it."""
    if isinstance(record, str):
        try:
            record = json.loads(record)
        except (ValueError, RecursionError):
            raise InputError("not valid JSON") from None
    if not isinstance(record, dict):
        raise InputError("not a JSON object")
    record = {name: value for name, value in record.items() if value is not None}
    flat = not record.keys() & {"queries", "passages"}
    unknown = sorted(record.keys() - (FLAT_FIELDS if flat else WIDE_FIELDS))
    if unknown:
        raise InputError(f"unknown field {', '.join(unknown)[:80]}")
    if flat:
        for plural, name in (("queries", "query"), ("passages", "passage"), ("negatives", "negative")):
            if name in record:
                if not isinstance(record.get("language"), str):
                    raise InputError("language is missing or not a string")
                record[plural] = {record["language"]: record[name]}
    group_id = id_text(record.get("group_id", where))
    document = id_text(record.get("document", group_id))
    for name, value in (("group_id", group_id), ("document", document)):
        if value is None:
            raise InputError(f"{name} must be a string or an integer")
    queries, passages, negatives = (_parse_texts(field, record) for field in ("queries", "passages", "negatives"))
    forms = {}
    for code in {*queries, *passages}:
        asked, answered, wrong = queries.get(code, {}), passages.get(code, {}), negatives.get(code, {})
        # A form that has both halves, the usual one of those; zh-CN and zh, in which nothing else is, are a pair too.
        both = sorted(asked.keys() & answered.keys(), key=form_order)[:1]
        chosen = [sorted(half, key=lambda f: (f not in both, form_order(f)))[:1] for half in (asked, answered, wrong)]
        for half, of_code, keep in zip((queries, passages, negatives), (asked, answered, wrong), chosen, strict=True):
            half[code] = {form: of_code[form] for form in keep}
        forms[code] = "".join((*chosen[0], *chosen[1])[:1])
        for other in sorted({*asked, *answered}.difference(*chosen)):
            yield Rejected(where, "one language left out: another form of it is read", other)
    yield from checked_group(
        where,
        group_id or "",
        document or "",
        {code: query.text for code, of_code in queries.items() for (query,) in of_code.values()},
        {code: each for code, of_code in passages.items() for each in of_code.values()},
        {code: each for code, of_code in negatives.items() for each in of_code.values()},
        {code: form for code, form in forms.items() if form != code},
    )


def _parse_texts(field: str, record: Mapping[str, Any]) -> dict[str, dict[str, tuple[Passage, ...]]]:
    """By language, the text or the texts of each form of it."""
    texts = record.get(field, {})
    if not isinstance(texts, dict):
        raise InputError(f"{field} must map languages to texts")
    parsed: dict[str, dict[str, tuple[Passage, ...]]] = {}
    for tag, value in texts.items():
        if value is None:
            continue
        code, form = language_code(tag), written_form(tag)
        if form in parsed.get(code, {}):
            raise InputError(f"{field} has two texts for one language")
        several = isinstance(value, list) and field != "queries"
        found = tuple(passage for each in (value if several else [value]) if (passage := _passage(field, code, each)))
        if found or several:
            parsed.setdefault(code, {})[form] = found
    return parsed


def _passage(field: str, code: str, value: Any) -> Passage | None:
    """A text, with its id where it has one; None for null."""
    text, doc_id = value, None
    if isinstance(value, dict) and field != "queries" and value.keys() <= {"doc_id", "text"}:
        text, doc_id = value.get("text"), value.get("doc_id")
    if text is None and doc_id is None:
        return None  # a struct of Parquet with nothing in it is null, too
    doc_id = passage_id(code, text) if doc_id is None and isinstance(text, str) else id_text(doc_id)
    if doc_id is None or not isinstance(text, str):
        raise InputError(f"{field} has something that is neither a text nor (for a passage) a doc_id with a text")
    return Passage(doc_id, text)
