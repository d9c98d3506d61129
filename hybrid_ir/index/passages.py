"""Passages to index, read and checked one by one.

In: JSON lines or Parquet, a folder of them, a store, or an XQuAD-R folder. Out: passages and rejects.
A record is {"doc_id": text, "text": text, "language": code} with optional "metadata": {key: text, number or
true/false}. A doc_id may be an integer, and null is absent. Rejects never stop the reading and never vanish.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hybrid_ir.data import id_text, lareqa_collection, open_store, parquet_rows, read_lines, record_files, shorten
from hybrid_ir.languages import language_code
from hybrid_ir.types import OUTER_SPACE, InputError, Rejected, key64

Scalar = str | int | float | bool
FIELDS = ("doc_id", "text", "language", "metadata")
MAX_METADATA_KEYS = 64
_ROWS_AT_ONCE = 4096  # of a store


class IndexedPassage(NamedTuple):
    """A passage with what a search may filter by."""

    doc_id: str
    text: str
    language: str
    metadata: Mapping[str, Scalar] = {}


def read_passages(path: str | Path) -> Iterator[IndexedPassage | Rejected]:
    """Passages of a .jsonl, .jsonl.gz or .parquet file or a folder of them; of a store; or of an XQuAD-R folder.

    Raises InputError for a missing or unreadable file.
    """
    root = passages_at(path)
    if (root / "manifest.json").is_file():
        yield from _store_passages(str(root))
    elif root.is_dir() and not any(root.rglob("*.jsonl*")) and not any(root.rglob("*.parquet")):
        for candidate in lareqa_collection(root, root.name).candidates:
            yield IndexedPassage(candidate.doc_id, candidate.text, candidate.language)
    else:
        for file in record_files(root):
            for number, record in parquet_rows(file) if file.suffix == ".parquet" else read_lines(file):
                if isinstance(record, str) and not record.strip():
                    continue
                yield parse_passage(record, f"{file.name}:{number}")


def texts_of(path: str | Path) -> Iterator[str]:
    """Every text at a path that `read_passages` reads; of a store its queries too. What is rejected is passed over."""
    root = passages_at(path)
    if (root / "manifest.json").is_file():
        yield from open_store(str(root)).texts()
    else:
        yield from (found.text for found in read_passages(root) if isinstance(found, IndexedPassage))


SAMPLE = 1000
"""Passages of a language whose mean stands for the language's."""


def sample_by_language(paths: Sequence[str], languages: Sequence[str] | None = None) -> dict[str, list[str]]:
    """Up to `SAMPLE` different texts of each language, those with the smallest hashes: the same from any order.

    Raises InputError for a language that no passage has.
    """
    kept: dict[str, dict[int, str]] = {}
    for found in (found for path in paths for found in read_passages(path)):
        if isinstance(found, IndexedPassage) and (languages is None or found.language in languages):
            some = kept.setdefault(found.language, {})
            some[key64(found.text)] = found.text
            if len(some) > 4 * SAMPLE:
                kept[found.language] = dict(sorted(some.items())[:SAMPLE])
    if missing := sorted(set(languages or ()) - kept.keys()):
        raise InputError(f"no passage is in {', '.join(missing)}; there are {', '.join(sorted(kept)) or 'none at all'}")
    return {language: [text for _, text in sorted(some.items())[:SAMPLE]] for language, some in sorted(kept.items())}


def passages_at(path: str | Path) -> Path:
    """The path itself. Raises InputError if nothing is there."""
    if not Path(path).exists():
        raise InputError(
            f"no passages at {path}; give .jsonl, .jsonl.gz or .parquet files, a store, or an XQuAD-R folder"
        )
    return Path(path)


def _store_passages(path: str) -> Iterator[IndexedPassage]:
    """Every passage of a store, of all its splits, once: a store's doc_ids are unique within a language only, and
    its held-out pools hold passages of the training split too."""
    store = open_store(path)
    seen: set[int] = set()

    def new(doc_id: str, text: str, language: str) -> Iterator[IndexedPassage]:
        key = key64(f"{language}/{text}")
        if key not in seen:
            seen.add(key)
            yield IndexedPassage(f"{language}/{doc_id}", text, language)

    for number, partition in enumerate(store.partitions):
        for start in range(0, partition.rows, _ROWS_AT_ONCE):
            rows = np.arange(start, min(start + _ROWS_AT_ONCE, partition.rows))
            for language in partition.languages:
                ids, texts = (store.take(number, rows, f"{half}_{language}") for half in ("p_id", "p"))
                for doc_id, text in zip(chain.from_iterable(ids), chain.from_iterable(texts), strict=True):
                    yield from new(doc_id, text, language)
    for split, folder in sorted(store.manifest["eval"].items()):
        for candidate in store.collection(split).candidates if folder else ():
            yield from new(candidate.doc_id, candidate.text, candidate.language)


def parse_passage(record: Any, where: str) -> IndexedPassage | Rejected:
    reason = None  # that of the first thing that is wrong
    if isinstance(record, str):
        try:
            record = json.loads(record)
        except (ValueError, RecursionError):
            return Rejected(where, "not valid JSON", shorten(record))
    if not isinstance(record, dict):
        return Rejected(where, "not a JSON object", shorten(record))
    record = {name: value for name, value in record.items() if value is not None}
    if unknown := sorted(record.keys() - set(FIELDS)):
        reason = f"unknown field {', '.join(unknown)[:80]} (metadata goes under 'metadata')"
    metadata = record.get("metadata", {})
    if isinstance(metadata, dict):
        # pandas writes a gap in a column of numbers as NaN.
        metadata = {key: value for key, value in metadata.items() if value is not None and value == value}
    if (doc_id := id_text(record.get("doc_id"))) is not None:
        record["doc_id"] = doc_id
    for name in FIELDS[:3]:
        value = record.get(name)
        if not isinstance(value, str) or not value.strip(OUTER_SPACE):
            reason = reason or f"no {name}, or one that is not a text"
        elif not _is_utf8(value):
            reason = reason or f"{name} is not valid UTF-8"
    if not isinstance(metadata, dict) or any(
        not _is_scalar(v) or not k or not _is_utf8(k) for k, v in metadata.items()
    ):
        reason = reason or "metadata must map names to texts, true/false or finite numbers of at most 64 bits"
    if reason is None:
        try:
            return IndexedPassage(
                record["doc_id"], record["text"].strip(OUTER_SPACE), language_code(record["language"]), metadata
            )
        except InputError as error:
            reason = str(error)
    return Rejected(where, reason, shorten(record))


def _is_scalar(value: Any) -> bool:
    if isinstance(value, int):
        return -(2**63) <= value < 2**64  # what JSON's readers and writers hold
    return (isinstance(value, float) and math.isfinite(value)) or (isinstance(value, str) and _is_utf8(value))


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
