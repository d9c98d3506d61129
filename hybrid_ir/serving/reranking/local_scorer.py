"""A reranker in this process. In: its folder or name. Out: a `Scorer`. Torch comes with it."""

from __future__ import annotations

from collections.abc import Sequence

from hybrid_ir.encoders import Reranker, best_device, load_reranker, use_threads
from hybrid_ir.serving.one_thread import OneThread
from hybrid_ir.serving.reranking.scorer import Scored


class LocalScorer:
    """It has a thread of its own, beside those that encode and search."""

    def __init__(self, source: str, max_tokens: int, threads: int) -> None:
        """`source` is a folder or a name on the hub, `max_tokens` of query and text together. Raises InputError where
        it is no reranker."""
        self._thread = OneThread(use_threads, threads)
        self._reranker: Reranker = self._thread.wait_for(
            lambda: load_reranker(source, max_tokens=max_tokens, device=best_device())
        )

    async def score(self, query: str, texts: Sequence[str]) -> Scored:
        return Scored(*await self._thread.run(self._reranker.scores_and_reading, [(query, text) for text in texts]))

    def up(self) -> bool:
        return not self._thread.stuck

    def check(self) -> None:
        self._thread.check()
