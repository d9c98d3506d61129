"""What the tests of the readers share: the real files, where they are, and groups apart from what was rejected."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybrid_ir.types import Group, Rejected

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="real benchmark files are not here")
CASES = DATA.parent / "cases"
needs_cases = pytest.mark.skipif(not CASES.exists(), reason="the small inputs are not here")


def parted(records) -> tuple[list[Group], list[Rejected]]:
    records = list(records)
    return [r for r in records if isinstance(r, Group)], [r for r in records if isinstance(r, Rejected)]
