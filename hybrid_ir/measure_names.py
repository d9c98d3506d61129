"""Names of the measures of a test collection: in which order they are shown, which is better, and how they are printed.

In: nothing. Out: tuples of names for tables and logs, and what a table needs to know of each.
"""

from __future__ import annotations

from collections.abc import Iterable

MEASURES = ("AP_mono", "AP_cross", "AP_multi", "R@1_mono", "R@1_cross", "R@10_multi", "rank_distance")
PRECISIONS = ("AP_mono", "AP_cross", "AP_multi")  # AP_mean is the mean of these
HEADLINE = (*PRECISIONS, "rank_distance")  # what is compared and drawn
VALIDATION = ("AP_mean", *HEADLINE)  # what a validation says
SWEEP = ("AP_mean", *PRECISIONS, "R@1_mono", "rank_distance")  # the columns of a sweep's table
BIAS = ("Max@R", "MRC@10")  # beside the rank distance, what a report says of language bias
OF_LANGUAGE = ("AP_mono", "AP_cross_as_query", "AP_cross_as_passage", "AP_multi", "rank_distance")

_POSITIONS = ("rank_distance", "Max@R")


def lower_is_better(measure: str) -> bool:
    """A rank distance and Max@R count positions; every other measure is a share of what could be had."""
    return measure in _POSITIONS


def best_of(measure: str, values: Iterable[float]) -> float:
    """The lowest or the highest, as the measure is meant."""
    return min(values) if lower_is_better(measure) else max(values)


def digits(measure: str) -> int:
    """Digits after the point in tables: positions have one, shares three."""
    return 1 if measure in _POSITIONS else 3
