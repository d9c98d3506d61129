"""What the service needs of a reranker, in a thread of its process or in a deployment of its own. No torch here.

In: a query and texts. Out: a score for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from hybrid_ir.storage import is_uri


class Scored(NamedTuple):
    """T texts as the reranker read each of them, together with the query."""

    scores: np.ndarray
    """(T,) float32: the model's own output, higher is better."""
    tokens: np.ndarray
    """(T,) integers: tokens of query and text."""
    cut: np.ndarray
    """(T,) bool: whether they were longer than the model reads."""


class Scorer(Protocol):
    """What the service needs of a reranker."""

    async def score(self, query: str, texts: Sequence[str]) -> Scored:
        """Raises ShardDown where it does not answer."""
        ...

    def up(self) -> bool:
        """Whether it answers."""
        ...

    def check(self) -> None:
        """Raises Stuck if what computes in this process does not come back."""
        ...


def name_of(source: str) -> str:
    """What clients may call a reranker: its name on the hub, or the last part of its folder, which tells nothing of
    this machine."""
    folder = is_uri(source) or Path(source).exists()
    return source.rstrip("/").rpartition("/")[2] if folder else source
