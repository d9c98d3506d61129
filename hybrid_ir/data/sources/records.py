"""The user's own records.

In: JSON lines or Parquet, a file or a folder of them. Out: a stream of `Group | Rejected`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybrid_ir.data.find_files import record_files
from hybrid_ir.data.groups import checked_group, passage_id, shorten
from hybrid_ir.data.read_files import parquet_rows, read_lines
from hybrid_ir.languages import language_code
from hybrid_ir.types import InputError, Passage, Records, Rejected

WIDE_FIELDS = frozenset({"group_id", "document", "queries", "passages", "negatives"})
FLAT_FIELDS = frozenset({"group_id", "document", "language", "query", "passage", "negative"})


def read_records(path: str | Path) -> Records:
    """The user's own groups: a .jsonl, .jsonl.gz or .parquet file, or a folder of them (other files are passed over).

    A record is {"queries": {language: text}, "passages": {language: text or {"doc_id":, "text":}}}, with optional
    "negatives" like passages, "group_id" (default: file and line) and "document" (default: the group_id); or, in one
    language, {"language":, "query":, "passage":} with optional "negative", "group_id" and "document". Null is absent.
    """
    root = Path(path)
    for file in record_files(root):
        name = file.name if root.is_file() else file.relative_to(root).as_posix()
        for number, record in parquet_rows(file) if file.suffix == ".parquet" else read_lines(file):
            where = f"{name}:{number}"
            if isinstance(record, str) and not record.strip():
                continue
            try:
                group_id, document, queries, passages, negatives = _parse_record(record, where)
            except InputError as error:
                yield Rejected(where, str(error), shorten(record))
            else:
                yield from checked_group(where, group_id, document, queries, passages, negatives)


def _parse_record(record: Any, where: str) -> tuple[str, str, dict[str, str], dict[str, Passage], dict[str, Passage]]:
    """Group id, document, queries, passages, negatives. Raises InputError with the reason to reject the record."""
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
    group_id = record.get("group_id", where)
    document = record.get("document", group_id)
    for name, value in (("group_id", group_id), ("document", document)):
        if not isinstance(value, str):
            raise InputError(f"{name} must be a string")
    queries = {code: p.text for code, p in _parse_texts("queries", record).items()}
    return group_id, document, queries, _parse_texts("passages", record), _parse_texts("negatives", record)


def _parse_texts(field: str, record: Mapping[str, Any]) -> dict[str, Passage]:
    texts = record.get(field, {})
    if not isinstance(texts, dict):
        raise InputError(f"{field} must map languages to texts")
    parsed: dict[str, Passage] = {}
    for tag, value in texts.items():
        if value is None:
            continue
        code = language_code(tag)
        if code in parsed:
            raise InputError(f"{field} has two texts for one language")
        if isinstance(value, dict) and field != "queries" and value.keys() == {"doc_id", "text"}:
            doc_id, text = value["doc_id"], value["text"]
        else:
            doc_id, text = passage_id(code, value) if isinstance(value, str) else None, value
        if not isinstance(doc_id, str) or not isinstance(text, str):
            raise InputError(f"{field} has something that is neither a text nor (for a passage) a doc_id with a text")
        parsed[code] = Passage(doc_id, text)
    return parsed
