"""The log of a training: what its `log.jsonl` holds, as rows. In: the file of a run folder. Out: rows by step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hybrid_ir.storage import open_filesystem


def read_log(path: str | Path) -> list[dict[str, Any]] | None:
    """Rows of a run's `log.jsonl`; None when there is none. A resumed run's log may hold a step twice: the last counts."""
    filesystem, inner = open_filesystem(str(path))
    if not filesystem.get_file_info(inner).is_file:
        return None
    rows: dict[tuple[int, bool], dict[str, Any]] = {}
    for line in filesystem.open_input_stream(inner).read().decode("utf-8", "replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # a line that a killed run was in the middle of
        rows[row["step"], "loss" in row] = row
    return [rows[key] for key in sorted(rows)]
