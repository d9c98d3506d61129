"""Where words of a query stand in its hits.

In: a SearchResponse, and the texts that were searched for. Out: the same, each hit with the places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hybrid_ir.words import places_of, words_of


def mark_words(body: dict[str, Any], texts: Sequence[str]) -> None:
    """Put `highlights` into the hits of each text's result. Called in a thread: long passages take milliseconds."""
    for result, text in zip(body["results"], texts, strict=True):
        words = frozenset(words_of(text))
        for hit in result["hits"]:
            hit["highlights"] = places_of(hit["text"], words)
