"""Files of public tasks and test sets, as tests write them, and what was measured on them, as tests read it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def json_lines(*records) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def rows_of(result):
    return {row.pop("query_id"): row for row in result.per_query.to_pylist()}
