"""The second stage of a service: texts put in order by the reranker, as a request of its own or behind a search.

In: queries, each with its texts or hits. Out: scores, or hits in another order, as far as the time was enough.

A query's texts are scored in parts, the best first. What is in a part depends on the query's own texts alone, so that a
score is the same, bit for bit, whatever else is asked at that time.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

import numpy as np

from hybrid_ir.config import Serve
from hybrid_ir.serving.api import SearchRequest
from hybrid_ir.serving.batcher import Observe
from hybrid_ir.serving.checks import RequestError, check_texts
from hybrid_ir.serving.release import ShardDown
from hybrid_ir.serving.reranking.scorer import Scored, Scorer, name_of
from hybrid_ir.serving.searching.counted import Counted
from hybrid_ir.serving.searching.gathered import Shown

TOGETHER, CHARACTERS = 16, 4000
"""A part is so many texts at most, and ends with the one that makes them so long: a part that is late at the deadline
is computed in vain."""
AT_ONCE = 4
"""Parts of a request that are on their way. Requests that come together take turns."""

Pair = tuple[float, int, bool]
"""What a text's place in a `Scored` has: score, tokens, whether it was cut."""


class Reranking:
    """The reranker of a service, if it has one, with its limits."""

    def __init__(self, scorer: Scorer | None, settings: Serve, observe: Observe) -> None:
        self._scorer, self._settings, self._observe = scorer, settings, observe
        self.name = name_of(settings.reranker or "")
        self._waiting = 0  # texts of /v1/rerank and /rerank
        self._searches = Counted(
            settings.max_queue, "queries are being reranked already; ask again in a second, or without `rerank`"
        )

    def up(self) -> bool | None:
        """Whether the reranker answers; None where there is none."""
        return None if self._scorer is None else self._scorer.up()

    def check(self) -> None:
        """Raises Stuck if a reranker of this process does not come back."""
        if self._scorer is not None:
            self._scorer.check()

    async def rank(self, query: str, texts: Sequence[str], model: str | None, param: str) -> Scored:
        """A score for each of the texts, which came in the field `param`. Raises RequestError."""
        if self._scorer is None:
            raise RequestError(404, "no_reranker", f"no reranker is served here; {_SERVE_ONE}")
        if model is not None and model != self.name:
            said = f"there is one reranker here, {self.name}, not {model[:80]!r}"
            raise RequestError(404, "model_not_found", said, "model")
        check_texts([query], "query", self._settings)
        check_texts(texts, param, self._settings)
        if self._waiting and self._waiting + len(texts) > self._settings.max_queue:
            said = f"{self._waiting} texts are waiting already; ask again in a second"
            raise RequestError(429, "busy", said)
        self._waiting += len(texts)
        try:
            (pairs,) = await self._score([(query, texts)], self._settings.deadline_ms / 1000)
        except ShardDown as error:
            raise _down(error) from error
        finally:
            self._waiting -= len(texts)
        there = [pair for pair in pairs if pair is not None]
        if len(there) < len(pairs):
            raise RequestError(504, "deadline_exceeded", "the deadline passed before the texts were reranked")
        return Scored(*map(np.array, zip(*there, strict=True)))

    def queued(self, queries: int) -> AbstractContextManager[None]:
        """Meanwhile a search of so many queries is answered and reranked. Raises RequestError where too many are.

        They are counted from their beginning: when a flood comes at once, nothing is searched for what is refused. Not
        their candidates, for how long those take is bounded by `serve.rerank_deadline_ms` already.
        """
        return self._searches.during(queries)

    def widened(self, request: SearchRequest) -> SearchRequest:
        """The search that finds what is to be reranked. Raises RequestError for what cannot be reranked."""
        assert request.rerank is not None
        most, candidates = self._settings.max_k, request.rerank.candidates
        if self._scorer is None:
            raise RequestError(422, "no_reranker", f"rerank: no reranker is served here; {_SERVE_ONE}", "rerank")
        if candidates > most:
            said = f"rerank.candidates must be at most {most}, got {candidates}"
            raise RequestError(422, "invalid_request", said, "rerank.candidates")
        if request.offset is not None or request.cursor is not None:
            said = (
                "rerank: an answer that is reranked has no pages; leave offset and cursor out, and ask for a larger k"
            )
            raise RequestError(422, "invalid_request", said, "rerank")
        if request.prefer is not None:
            said = "rerank: the bonuses of `prefer` are of the cosine, and the reranker has its own; leave one out"
            raise RequestError(422, "invalid_request", said, "rerank")
        return request.model_copy(update={"k": max(request.k, candidates)})

    async def reorder(
        self, shown: Sequence[Shown], texts: Sequence[str], request: SearchRequest, deadline: float
    ) -> list[Shown]:
        """The first k hits of each query, its candidates in the order of the reranker's scores: those that were not
        scored in time stand behind them, and then those that were no candidates, each in the order that they had.

        `deadline` is the request's (time.perf_counter). Raises RequestError where the reranker does not answer, and
        the request's policy is strict.
        """
        assert request.rerank is not None
        candidates = [_texts_of(one, request.rerank.candidates) for one in shown]
        seconds = min(self._settings.rerank_deadline_ms / 1000, deadline - time.perf_counter())
        try:
            found = await self._score(list(zip(texts, candidates, strict=True)), seconds)
        except ShardDown as error:
            if request.policy == "strict":
                raise _down(error) from error
            found = [[None] * len(some) for some in candidates]
        return [
            _in_order(one, [None if pair is None else pair[0] for pair in pairs], request.k)
            for one, pairs in zip(shown, found, strict=True)
        ]

    async def _score(self, asked: Sequence[tuple[str, Sequence[str]]], seconds: float) -> list[list[Pair | None]]:
        """What was found of each query's texts in so many seconds; None for a text that was late. Raises ShardDown."""
        assert self._scorer is not None
        # Equal texts are scored once: in two parts their scores would differ in the last bits, and not tie.
        different = [list(dict.fromkeys(texts)) for _, texts in asked]
        found: list[dict[str, Pair]] = [{} for _ in asked]
        # The first part of each query before the second of any.
        parts = [
            (place, n, part)
            for n, texts in enumerate(different)
            for place, part in enumerate(_parts(texts, len(asked[n][0])))
        ]
        parts.sort(key=lambda each: each[:2])
        waiting = iter(parts)
        scorer, start = self._scorer, time.perf_counter()

        async def work() -> None:
            for _, n, part in waiting:
                texts = different[n][part]
                scored = await scorer.score(asked[n][0], texts)
                pairs = zip(*(column.tolist() for column in scored), strict=True)
                found[n] |= dict(zip(texts, pairs, strict=True))

        working = [asyncio.create_task(work()) for _ in range(min(AT_ONCE, len(parts)))]
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await asyncio.gather(*working)
        except TimeoutError:
            pass
        finally:
            for task in working:
                task.cancel()
        self._observe("rerank_duration_seconds", time.perf_counter() - start, {})
        each = [[pairs.get(text) for text in texts] for pairs, (_, texts) in zip(found, asked, strict=True)]
        if late := sum(pair is None for pairs in each for pair in pairs):
            self._observe("rerank_late", late, {})
        return each


_SERVE_ONE = "start the service with serve.reranker=FOLDER, or the name of a cross-encoder on the hub"


def _down(error: ShardDown) -> RequestError:
    return RequestError(503, "reranker_missing", f"{error}; ask again")


def relevance(score: float) -> float:
    """The sigmoid: from 0 to 1."""
    # Of a large number below 0, exp would overflow the other way.
    return 1 / (1 + math.exp(-score)) if score >= 0 else math.exp(score) / (1 + math.exp(score))


def by_score(scores: Sequence[float | None]) -> list[int]:
    """Places of the scores, highest first, those that are None last; of equal ones the first."""
    return sorted(range(len(scores)), key=lambda place: _rank(scores[place]))


def _rank(score: float | None) -> tuple[bool, float]:
    return (True, 0.0) if score is None else (False, -score)


def _texts_of(one: Shown, candidates: int) -> list[str]:
    """What is read of each candidate: of a long passage the piece that was found, and not its beginning."""
    texts = [passage.text for passage, _ in one.hits[:candidates]]
    pieces = [None] * len(texts) if one.more is None else [more.get("piece") for more in one.more[:candidates]]
    return [text if piece is None else text[slice(*piece)] for text, piece in zip(texts, pieces, strict=True)]


def _parts(texts: Sequence[str], query: int) -> Iterator[slice]:
    """`query` is its characters: it is read with each of the texts."""
    start, characters = 0, 0
    for end, text in enumerate(texts, start=1):
        characters += len(text) + query
        if end - start == TOGETHER or characters >= CHARACTERS or end == len(texts):
            yield slice(start, end)
            start, characters = end, 0


def _in_order(one: Shown, scored: Sequence[float | None], k: int) -> Shown:
    scores = [*scored, *[None] * (len(one.hits) - len(scored))]
    order = by_score(scores)[:k]
    said = [{} if one.more is None else one.more[place] for place in order]
    for place, more in zip(order, said, strict=True):
        score = scores[place]
        more["reranked"] = score is not None
        if score is not None:
            more["rerank_score"] = relevance(score)
    reached = {"candidates": len(scored), "scored": sum(score is not None for score in scored)}
    cut = None if one.cut is None else one.cut and len(order) < k
    return Shown([one.hits[place] for place in order], said, cut, reached)
