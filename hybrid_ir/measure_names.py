"""The names of what is measured, in the order that tables show them."""

from __future__ import annotations

MEASURES = ("AP_mono", "AP_cross", "AP_multi", "R@1_mono", "R@1_cross", "R@10_multi", "rank_distance")
HEADLINE = ("AP_mono", "AP_cross", "AP_multi", "rank_distance")
PRECISIONS = ("AP_mono", "AP_cross", "AP_multi")
