"""Searching as a service: micro-batches through the release, deadlines, coverage, swaps. No HTTP and no Ray.

In: requests as `api` describes them. Out: answers as plain data, or a `RequestError`.
Each request keeps the release that it began with, so no answer mixes two.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from hybrid_ir.config import Serve
from hybrid_ir.index import IndexedPassage, is_flat, merge
from hybrid_ir.serving.answers import ready_body, search_body, stats_body
from hybrid_ir.serving.api import EmbeddingsRequest, SearchRequest
from hybrid_ir.serving.batcher import Batcher, Observe, Started
from hybrid_ir.serving.checks import RequestError, check_model, check_texts, shard_query
from hybrid_ir.serving.release import Release, ShardAnswer, ShardDown


class _Serving:
    """A release with its queue."""

    def __init__(self, release: Release, settings: Serve, observe: Observe) -> None:
        self.release = release
        self.batcher = Batcher(release, settings.max_batch, observe)
        self.embedding = 0  # inputs of /v1/embeddings that wait
        self.lossy = not is_flat(release.manifest.codec)


class SearchService:
    """Answers requests from the active release; holds the one before for an instant rollback."""

    def __init__(self, release: Release, settings: Serve, observe: Observe = lambda name, value, labels: None) -> None:
        self.settings = settings
        self._observe = observe
        self._active = _Serving(release, settings, observe)
        self._held: dict[str, _Serving] = {}
        self.previous: str | None = None
        self.wanted = release.index, release.manifest.index_version

    @property
    def release(self) -> Release:
        return self._active.release

    def hold(self, release: Release) -> None:
        """Keep a loaded release ready to be activated."""
        self._held[release.key] = _Serving(release, self.settings, self._observe)

    def holds(self, key: str) -> bool:
        return key in self._held or key == self.release.key

    def activate(self, key: str, previous: str | None, keep: Collection[str]) -> None:
        """Serve a release, which is active or held, from the next request on, and go on holding those of `keep`.

        Releases are named by their keys, and `previous` by its folder, for who asks."""
        if key != self.release.key:
            self._held[self.release.key] = self._active
            self._active = self._held.pop(key)
        self.previous = previous
        for name in [name for name in self._held if name not in keep]:
            release = self._held.pop(name).release
            # Requests that began with it may take until their deadline.
            asyncio.get_running_loop().call_later(self.settings.deadline_ms / 1000, release.close)

    async def search(self, request: SearchRequest) -> dict[str, Any]:
        """A SearchResponse as plain data. Raises RequestError."""
        begun = time.perf_counter()
        serving = self._active
        texts = [request.query] if isinstance(request.query, str) else request.query
        query = shard_query(request, serving.release.manifest, self.settings)
        check_texts(texts, "query", self.settings)
        self._check_queue(serving, len(texts))
        deadline = begun + min(request.deadline_ms or self.settings.deadline_ms, self.settings.deadline_ms) / 1000
        futures = [serving.batcher.submit(text, query) for text in texts]
        await asyncio.wait(futures, timeout=deadline - time.perf_counter())
        started: list[Started | None] = []
        for future in futures:
            if not future.done():
                future.cancel()
                started.append(None)
            elif future.exception() is not None:
                raise self._unavailable(future.exception())
            else:
                started.append(future.result())
        tasks = {task for one in started if one is not None for task in one.tasks}
        if tasks:
            await asyncio.wait(tasks, timeout=max(0.0, deadline - time.perf_counter()))
        missing = self._missing(serving, started, query.languages)
        results = await self._results(serving, started, query.k, deadline, missing)
        late = time.perf_counter() > deadline
        body = search_body(serving.release.manifest, request, results, missing, started, begun)
        for language in request.languages or ["all"]:
            self._observe("searches", 1, {"language": language})
        for n in missing:
            self._observe("missing_shards", 1, {"shard": serving.release.manifest.shards[n].name})
        if late and missing:
            raise RequestError(
                504, "deadline_exceeded", "the deadline passed before every shard had answered", body=body
            )
        names = [serving.release.manifest.shards[n].name for n in sorted(missing)]
        if missing and request.policy == "strict":
            raise RequestError(
                503, "shards_missing", f"shards {', '.join(names)} do not answer; ask again, or with policy best_effort"
            )
        if len(missing) == len(serving.release.manifest.shards):
            raise RequestError(503, "shards_missing", "no shard answers; ask again")
        return body

    async def embed(self, request: EmbeddingsRequest) -> tuple[np.ndarray, int, str]:
        """(inputs, D) unit vectors, the tokens that were encoded, and the space id. Raises RequestError."""
        serving = self._active
        texts = [request.input] if isinstance(request.input, str) else request.input
        check_texts(texts, "input", self.settings)
        space = serving.release.manifest.space
        check_model(request, space)
        self._check_queue(serving, len(texts))
        role = "query" if request.input_type == "query" else "document"
        serving.embedding += len(texts)
        try:
            async with asyncio.timeout(self.settings.deadline_ms / 1000):
                parts = [
                    await serving.release.embed(texts[i : i + self.settings.max_batch], role)
                    for i in range(0, len(texts), self.settings.max_batch)
                ]
        except TimeoutError:
            raise RequestError(504, "deadline_exceeded", "the deadline passed before the texts were encoded") from None
        except ShardDown as error:
            raise self._unavailable(error) from error
        finally:
            serving.embedding -= len(texts)
        return np.concatenate([vectors for vectors, _ in parts]), sum(tokens for _, tokens in parts), space["id"]

    def ready(self) -> dict[str, Any]:
        """A `Ready` as plain data."""
        return ready_body(self.release, self.wanted)

    def stats(self) -> dict[str, Any]:
        """A `Stats` as plain data."""
        return stats_body(self.release, self.previous, self.wanted)

    def waiting(self) -> int:
        """Texts that wait to be encoded."""
        return len(self._active.batcher) + self._active.embedding

    def waited_s(self) -> float:
        """Seconds that the first of the queries has waited to be encoded."""
        return self._active.batcher.waited_s()

    def _check_queue(self, serving: _Serving, count: int) -> None:
        waiting = len(serving.batcher) + serving.embedding
        if waiting and waiting + count > self.settings.max_queue:
            raise RequestError(429, "busy", f"{waiting} texts are waiting already; ask again in a second")

    def _unavailable(self, error: BaseException | None) -> RequestError:
        if isinstance(error, ShardDown):
            return RequestError(503, "encoder_missing", f"{error}; ask again")
        assert error is not None
        raise error

    def _missing(
        self, serving: _Serving, started: Sequence[Started | None], languages: tuple[str, ...] | None
    ) -> set[int]:
        """Shards that have not answered every query of the request; one that holds none of its languages need not."""
        missing: set[int] = set()
        for n, shard in enumerate(serving.release.manifest.shards):
            if languages is not None and not shard.languages.keys() & set(languages):
                continue
            for one in started:
                if one is None or not one.tasks[n].done():
                    missing.add(n)
                elif (error := one.tasks[n].exception()) is not None:
                    if not isinstance(error, ShardDown):
                        raise error
                    missing.add(n)
        return missing

    async def _results(
        self, serving: _Serving, started: Sequence[Started | None], k: int, deadline: float, missing: set[int]
    ) -> list[list[tuple[IndexedPassage, float]]]:
        """(passage, score) of the hits of each query. A shard whose passages cannot be read joins `missing`."""
        parts = [None if one is None else [_result(task) for task in one.tasks] for one in started]
        merged = [
            [] if one is None or row is None
            else merge([None if part is None else part[0][one.place] for part in row], k, serving.lossy)
            for one, row in zip(started, parts, strict=True)
        ]  # fmt: skip
        passages: dict[tuple[int, int], IndexedPassage] = {}
        for row in parts:
            for n, part in enumerate(row or ()):
                if part is not None:
                    passages.update({(n, key): value for key, value in part[1].items()})
        unread: dict[int, list[int]] = {}
        for hits in merged:
            for hit in hits:
                if (hit.shard, hit.row) not in passages:
                    unread.setdefault(hit.shard, []).append(hit.row)
        for n, rows in unread.items():
            try:
                async with asyncio.timeout_at(
                    asyncio.get_running_loop().time() + max(0.05, deadline - time.perf_counter())
                ):
                    texts = await serving.release.read(n, rows)
            except (TimeoutError, ShardDown):
                missing.add(n)
                continue
            passages.update({(n, row): text for row, text in zip(rows, texts, strict=True)})
        return [
            [(passages[hit.shard, hit.row], hit.score) for hit in hits if (hit.shard, hit.row) in passages]
            for hits in merged
        ]


def _result(task: asyncio.Task[ShardAnswer]) -> ShardAnswer | None:
    """What a shard answered; None if it has not, or is down (which `_missing` has seen)."""
    return task.result() if task.done() and task.exception() is None else None
