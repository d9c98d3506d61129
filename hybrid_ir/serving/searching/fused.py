"""A search by words, alone or beside the one by vectors.

In: a request that asks for it. Out: what each of its texts asks of the shards, and the hits of both rankings as one. A
ranking is that of the whole index, and the fused order depends on the two rankings alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

from hybrid_ir.config import Serve
from hybrid_ir.index import Hit, ShardQuery
from hybrid_ir.lexical import Fused, fuse
from hybrid_ir.serving.api import SearchRequest
from hybrid_ir.serving.batcher import MOST_POSTINGS, Started
from hybrid_ir.serving.checks import RequestError
from hybrid_ir.serving.release import Release
from hybrid_ir.serving.searching.cursor import deepest
from hybrid_ir.serving.searching.gathered import Passages, Shown, merged_hits, piece_of, read_passages
from hybrid_ir.serving.searching.queues import Serving

MOST_WORDS = 1024
"""Different ones in a query: as many clauses as Lucene lets a query have (IndexSearcher.getMaxClauseCount)."""
NOT_WITH = {
    "like": "the query is a passage's vector, which has no words; send a text",
    "min_score": "it is of the cosine, which a hit of the lexical ranking need not have",
    "prefer": "its bonuses are of the cosine",
    "quotas": "the rankings are fused without a policy of languages",
    "group_by": "the rankings are fused without a policy of languages",
}
"""Fields of a request that do not go with `lexical`, and why."""


class ByWords(NamedTuple):
    """What one text asks: both rankings, or that by words alone."""

    dense: ShardQuery | None
    lexical: ShardQuery

    @property
    def queries(self) -> list[ShardQuery]:
        return [self.lexical] if self.dense is None else [self.dense, self.lexical]


def check_lexical(request: SearchRequest, release: Release, settings: Serve) -> None:
    """Raises RequestError for an index without words, and for what does not go with them."""
    asked, manifest = request.lexical, release.manifest
    assert asked is not None
    if release.statistics is None:
        why = "was built without words" if manifest.lexical is None else "has words by the rule of another version"
        said = f"lexical: this index {why}; build it again with index.lexical=true, and swap to it"
        raise RequestError(422, "no_words", said, "lexical")
    for name, why in NOT_WITH.items():
        if getattr(request, name) is not None:
            raise RequestError(422, "invalid_request", f"lexical: it does not go with `{name}`: {why}", name)
    for name, fusions in (("weight", ("weighted",)), ("depth", ("rrf", "weighted"))):
        if getattr(asked, name) is not None and asked.fusion not in fusions:
            said = f"lexical.{name}: it goes with fusion {' or '.join(fusions)}, not with {asked.fusion}"
            raise RequestError(422, "invalid_request", said, f"lexical.{name}")
    for name in ("task", "query_language"):
        if getattr(request, name) is not None and asked.fusion == "none":
            said = (
                f"{name}: it picks the encoder's prompt, and with lexical.fusion none nothing is encoded; leave it out"
            )
            raise RequestError(422, "invalid_request", said, name)
    if asked.depth is not None and asked.depth > settings.max_k:
        said = f"lexical.depth must be at most {settings.max_k}, got {asked.depth}"
        raise RequestError(422, "invalid_request", said, "lexical.depth")
    if (wanted := (request.offset or 0) + request.k) > deepest(request, settings):
        said = f"lexical.depth must be at least {wanted}, for so many hits are asked for, got {asked.depth}"
        raise RequestError(422, "invalid_request", said, "lexical.depth")


async def by_words(
    texts: Sequence[str], query: ShardQuery, request: SearchRequest, release: Release, settings: Serve, deadline: float
) -> list[ByWords]:
    """What each of the texts asks of the shards, beside what `query` says. A long text takes milliseconds, so it is a
    thread that reads them. Raises RequestError for too many words, and once the deadline passes (time.perf_counter)."""
    try:
        async with asyncio.timeout(max(0.0, deadline - time.perf_counter())):
            return await asyncio.to_thread(_weighed, texts, query, request, release, settings, deadline)
    except TimeoutError:
        said = "the deadline passed before the words of the queries were read"
        raise RequestError(504, "deadline_exceeded", said) from None


def _weighed(
    texts: Sequence[str], query: ShardQuery, request: SearchRequest, release: Release, settings: Serve, deadline: float
) -> list[ByWords]:
    """Raises RequestError, and TimeoutError: nobody waits for the rest then."""
    assert request.lexical is not None
    assert release.statistics is not None
    depth, found, postings = deepest(request, settings), [], 0
    # What words alone have found is read by a reranker where the words are. A candidate is at least as high here.
    pieces = 0 if request.rerank is None else request.rerank.candidates
    for text in texts:
        if time.perf_counter() > deadline:
            raise TimeoutError
        words = release.statistics.query(text)
        if (different := len(words.weights)) > MOST_WORDS:
            said = f"query: {different} different words for a lexical search are more than {MOST_WORDS}; send fewer"
            raise RequestError(422, "invalid_request", said, "query")
        if (postings := postings + words.postings) > MOST_POSTINGS:
            said = (
                f"query: the words of this request stand in passages {postings:,} times or more, and {MOST_POSTINGS:,} "
                "are the most of a lexical search; send fewer queries at once, or leave frequent words out"
            )
            raise RequestError(422, "invalid_request", said, "query")
        if request.lexical.fusion == "none":
            found.append(ByWords(None, query._replace(among=None, words=words, pieces=pieces)))
        else:
            # Of each page the same, and so many that few of them will be shown: those are read then.
            deep = query._replace(k=depth, among=None, texts=False)
            found.append(ByWords(deep, deep._replace(words=words, pieces=pieces)))
    return found


async def fused_hits(
    serving: Serving,
    started: Sequence[Started | None],
    asked: Sequence[ByWords],
    request: SearchRequest,
    deadline: float,
    missing: set[int],
) -> list[Shown]:
    """The page of each text. A shard whose passages cannot be read joins `missing`."""
    read = Passages()
    start = request.offset or 0
    pages = [
        _ranked(serving, one, each, request, read)[start : start + request.k]
        for one, each in zip(started, asked, strict=True)
    ]
    hits = (hit for page in pages for hit, _, _ in page)
    await read_passages(serving.release, hits, read, deadline, missing)
    there = [[each for each in page if (each[0].shard, each[0].row) in read] for page in pages]
    return [
        Shown([(read[hit.shard, hit.row], score) for hit, score, _ in page], [said for _, _, said in page])
        for page in there
    ]


def _ranked(
    serving: Serving, one: Started | None, asked: ByWords, request: SearchRequest, read: Passages
) -> list[tuple[Hit, float, dict[str, Any]]]:
    """(hit, score, what it says besides), best first."""
    rankings = [merged_hits(serving, one, place, query, read) for place, query in enumerate(asked.queries)]
    if asked.dense is None:
        return [(hit, hit.score, piece_of(hit)) for hit in rankings[0]]
    assert request.lexical is not None
    assert request.lexical.fusion != "none"
    # The dense ranking's hits last: they know their pieces.
    hits = {hit.global_id: hit for hit in chain(*reversed(rankings))}
    dense, lexical = ([(hit.global_id, hit.score) for hit in ranking] for ranking in rankings)
    how = {} if request.lexical.weight is None else {"weight": request.lexical.weight}
    fused = fuse(dense, lexical, request.lexical.fusion, **how)
    return [(hits[each.passage], each.score, {**piece_of(hits[each.passage]), **_places_of(each)}) for each in fused]


def _places_of(fused: Fused[int]) -> dict[str, Any]:
    places = {"dense": fused.dense, "lexical": fused.lexical}
    return {name: place._asdict() for name, place in places.items() if place is not None}
