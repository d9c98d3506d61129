"""When a training that validates beside itself has stopped getting better. Worked by hand."""

from __future__ import annotations

import pytest

from hybrid_ir.training.decision import is_stale


@pytest.mark.parametrize(
    ("measured", "patience", "stale"),
    [
        ([], 1, False),
        ([0.5], 1, False),
        ([0.5, 0.4], 1, True),
        ([0.5, 0.5], 1, True),  # as good is not better
        ([0.5, 0.4], 2, False),
        ([0.5, 0.4, 0.3], 2, True),
        ([0.5, 0.4, 0.6], 2, False),
        ([0.5, 0.4, 0.6, 0.5], 2, False),
        ([0.5] * 50, None, False),
    ],
)
def test_stale_is_so_many_validations_without_a_better_one(measured, patience, stale):
    rows = [{"step": 1, "loss": 3.0}, *({"step": n, "AP_mean": ap} for n, ap in enumerate(measured))]
    assert is_stale(rows, "AP_mean", patience) is stale
