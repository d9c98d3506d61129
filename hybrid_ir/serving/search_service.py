"""Searching as a service: micro-batches through the release, deadlines, coverage, swaps. No HTTP and no Ray.

In: requests as `api` describes them. Out: answers as plain data, or a `RequestError`.
Each request keeps the release that it began with, so no answer mixes two.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from hybrid_ir.config import Serve
from hybrid_ir.index import Stored
from hybrid_ir.serving.answers import first_values, keep_fields, ready_body, search_body, stats_body
from hybrid_ir.serving.api import EmbeddingsRequest, SearchRequest
from hybrid_ir.serving.batcher import Observe, Started, needed_shards
from hybrid_ir.serving.checks import RequestError, check_fields, check_texts, decoder_of, role_of, texts_of
from hybrid_ir.serving.query_cache import QueryCache, Text
from hybrid_ir.serving.release import Encoded, Release, ShardDown, find_in_shards
from hybrid_ir.serving.reranking.scorer import Scorer
from hybrid_ir.serving.reranking.stage import Reranking
from hybrid_ir.serving.searching.asked import asked_of, prompt_of
from hybrid_ir.serving.searching.by_policy import hits_by_policy
from hybrid_ir.serving.searching.cursor import check_missing, next_cursor, page_of
from hybrid_ir.serving.searching.fused import by_words, check_lexical, fused_hits
from hybrid_ir.serving.searching.gathered import missing_shards, plain_hits, wait_for
from hybrid_ir.serving.searching.highlights import mark_words
from hybrid_ir.serving.searching.queues import Serving
from hybrid_ir.serving.tracing.spans import CALLERS, within


class SearchService:
    """Answers requests from the active release; holds the one before for an instant rollback."""

    def __init__(
        self,
        release: Release,
        settings: Serve,
        observe: Observe = lambda name, value, labels: None,
        scorer: Scorer | None = None,
    ) -> None:
        """`scorer` is the reranker, None where none is served: it stays whatever release is active."""
        self.settings = settings
        self.reranking = Reranking(scorer, settings, observe)
        self._observe = observe
        self._cache = QueryCache(settings.query_cache, observe)
        self._decode = decoder_of(settings.token_ids)
        self._active = Serving(release, settings, observe, self._cache)
        self._held: dict[str, Serving] = {}
        self.previous: str | None = None
        self.stopping = False
        """Whether it is to end: then it is not ready, and whoever lets requests in lets in no more."""
        self.wanted = release.index, release.manifest.index_version

    @property
    def release(self) -> Release:
        return self._active.release

    def hold(self, release: Release) -> None:
        """Keep a loaded release ready to be activated."""
        self._held[release.key] = Serving(release, self.settings, self._observe, self._cache)

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
        serving, queries = self._active, len(request.query) if isinstance(request.query, list) else 1
        with ExitStack() as counted:
            if request.lexical is not None:
                counted.enter_context(serving.searching_words(queries))
            if request.rerank is not None:
                counted.enter_context(self.reranking.queued(queries))
            return await self._search(request, serving)

    async def _search(self, request: SearchRequest, serving: Serving) -> dict[str, Any]:
        begun, manifest = time.perf_counter(), serving.release.manifest
        narrow, rerank_s = request, None
        if request.rerank is not None:
            request = self.reranking.widened(request)
        request, cursor = page_of(request, manifest, self.settings)
        texts = [request.query] if isinstance(request.query, str) else request.query or []
        asked = asked_of(request, manifest, self.settings)
        check_texts(texts, "query", self.settings)
        if request.like is not None and (request.task or request.query_language):
            name = "task" if request.task else "query_language"
            raise RequestError(422, "invalid_request", f"{name}: it is of a query, and `like` has none", name)
        wanted = (request.task, request.query_language)
        prompt = prompt_of("query", *wanted, manifest.space, ("task", "query_language"))
        if request.fields is not None:
            check_fields(request.fields, manifest)
        self._check_queue(serving, len(texts) or 1)
        deadline = begun + min(request.deadline_ms or self.settings.deadline_ms, self.settings.deadline_ms) / 1000
        words = None
        if request.lexical is not None:
            check_lexical(request, serving.release, self.settings)
            words = await by_words(texts, asked.query, request, serving.release, self.settings, deadline)
        own: tuple[int, int] | None = None
        stored: Stored | None = None
        strata = asked.strata(manifest.languages)
        queries, paged = [stratum.query for stratum in strata] or [asked.query], request.offset is not None
        if request.like is not None:
            shard, stored = await self._find(serving.release, request.like, "like", deadline - begun)
            if stored.vector is None:
                said = (
                    f"like: {request.like!r:.200} was cut into pieces, and has no vector of its own; send a text of it"
                )
                raise RequestError(422, "invalid_request", said, "like")
            own = (shard, stored.row)
            futures = [serving.submit_vector(stored.vector, queries)]
        elif words is not None:
            each_of = zip(texts, words, strict=True)
            futures = [serving.submit_words(Text(text, prompt), each.queries, paged) for text, each in each_of]
        else:
            futures = [serving.submit(Text(text, prompt), queries, paged) for text in texts]
        started = await self._start(futures, deadline)
        await wait_for(started, deadline)
        needed = needed_shards(manifest, asked.query.languages)
        missing = missing_shards(needed, started)
        if words is not None:
            shown = await fused_hits(serving, started, words, request, deadline, missing)
        elif asked.policy is None:
            shown = await plain_hits(serving, started, asked.query, request, own, deadline, missing)
        else:
            shown = [
                await hits_by_policy(serving, one, strata, asked, request, own, deadline, missing) for one in started
            ]
        late = time.perf_counter() > deadline
        if request.rerank is not None and not (missing and request.policy == "strict"):  # that is refused below
            start, said = time.perf_counter(), texts if stored is None else [stored.passage.text]
            with within("rerank", CALLERS.get(), {}):
                shown = await self.reranking.reorder(shown, said, narrow, deadline)
            rerank_s = time.perf_counter() - start
        body = search_body(manifest, asked.query.languages, shown, request, missing, started, begun, rerank_s)
        if request.offset is not None:
            most = max(len(one.hits) for one in shown)
            body["next"] = next_cursor(request, manifest, self.settings, most, missing)
        if request.highlights:
            said = texts if stored is None else [stored.passage.text]
            await asyncio.to_thread(mark_words, body, said)
        if request.fields is not None:
            keep_fields(body, request.fields)
        for language in asked.query.languages or ["all"]:
            self._observe("searches", 1, {"language": language})
        for n in missing:
            self._observe("missing_shards", 1, {"shard": manifest.shards[n].name})
        if late and missing:
            raise RequestError(
                504, "deadline_exceeded", "the deadline passed before every shard had answered", body=body
            )
        names = [manifest.shards[n].name for n in sorted(missing)]
        if missing and request.policy == "strict":
            raise RequestError(
                503, "shards_missing", f"shards {', '.join(names)} do not answer; ask again, or with policy best_effort"
            )
        if len(missing) == len(needed):
            raise RequestError(503, "shards_missing", "no shard with these languages answers; ask again")
        if cursor is not None:
            check_missing(cursor, manifest, missing)
        return body

    async def passage(self, doc_id: str) -> dict[str, Any]:
        """A `Passage` as plain data. Raises RequestError: 404 where the index has none with this id."""
        release = self._active.release
        _, stored = await self._find(release, doc_id, "doc_id", self.settings.deadline_ms / 1000)
        return {**stored.passage._asdict(), "index_version": release.manifest.index_version}

    async def embed(self, request: EmbeddingsRequest, param: str = "input") -> tuple[Encoded, str]:
        """The inputs, which came in the field `param`, encoded; and the space id. Raises RequestError."""
        serving = self._active
        space = serving.release.manifest.space
        role = role_of(request, space, self.settings)
        prompt = prompt_of(role, request.task, request.language, space, ("task", "language"))
        texts = texts_of(request.input, self._decode)
        check_texts(texts, param, self.settings)
        self._check_queue(serving, len(texts))

        # Passages are not kept: they are not posted again, and would take the place of queries.
        async def encode(part: Sequence[str]) -> Encoded:
            if role == "query":
                return await self._cache.encode(serving.release, [Text(text, prompt) for text in part])
            return await serving.release.encode(part, prompt)

        serving.embedding += len(texts)
        try:
            size = {"hybrid_ir.batch.size": len(texts)}
            async with asyncio.timeout(self.settings.deadline_ms / 1000):
                with within("encode", CALLERS.get(), size):
                    parts = [
                        await encode(texts[i : i + self.settings.max_batch])
                        for i in range(0, len(texts), self.settings.max_batch)
                    ]
        except TimeoutError:
            raise RequestError(504, "deadline_exceeded", "the deadline passed before the texts were encoded") from None
        except ShardDown as error:
            raise self._unavailable(error) from error
        finally:
            serving.embedding -= len(texts)
        vectors, tokens, cut = zip(*parts, strict=True)
        wanted = first_values(np.concatenate(vectors), request.dimensions or space["dimension"])
        return Encoded(wanted, np.concatenate(tokens), np.concatenate(cut)), space["id"]

    def ready(self) -> dict[str, Any]:
        """A `Ready` as plain data."""
        return ready_body(self.release, self.wanted, self.reranking.up(), self.stopping)

    def stats(self) -> dict[str, Any]:
        """A `Stats` as plain data."""
        return stats_body(self.release, self.previous, self.wanted)

    def waited_s(self) -> float:
        """Seconds that the first of the queries has waited to be encoded."""
        return self._active.waited_s()

    @property
    def waiting(self) -> int:
        """Texts that are not encoded yet."""
        return self._active.waiting

    def _check_queue(self, serving: Serving, count: int) -> None:
        waiting = serving.waiting
        if waiting and waiting + count > self.settings.max_queue:
            raise RequestError(429, "busy", f"{waiting} texts are waiting already; ask again in a second")

    def _unavailable(self, error: BaseException | None) -> RequestError:
        if isinstance(error, ShardDown):
            return RequestError(503, "encoder_missing", f"{error}; ask again")
        assert error is not None
        raise error

    async def _find(self, release: Release, doc_id: str, param: str, timeout_s: float) -> tuple[int, Stored]:
        """The passage, and the number of the shard that has it. `param`: the field it came in. Raises RequestError."""
        try:
            found = await find_in_shards(release, doc_id, timeout_s)
        except ShardDown as error:
            raise RequestError(503, "shards_missing", f"{error}; ask again") from error
        if found is None:
            raise RequestError(404, "passage_not_found", f"no passage has the doc_id {doc_id!r:.200}", param)
        return found

    async def _start(self, futures: Sequence[asyncio.Future[Started]], deadline: float) -> list[Started | None]:
        """The searches of each query; None for one that was not encoded before the deadline. Raises RequestError.

        Whatever ends this, a hang-up of the client too, takes what still waits out of the queue.
        """
        try:
            await asyncio.wait(futures, timeout=deadline - time.perf_counter())
            for future in futures:
                if future.done() and future.exception() is not None:
                    raise self._unavailable(future.exception())
            return [future.result() if future.done() else None for future in futures]
        finally:
            for future in futures:
                future.cancel()
