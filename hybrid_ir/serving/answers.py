"""What the service answers, as plain data that `api` describes.

In: the release, the hits that were found, the shards that are missing. Out: the bodies of /search, /stats and /readyz;
of vectors that are asked for, their first values.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from hybrid_ir.index import Manifest
from hybrid_ir.serving.api import SearchRequest
from hybrid_ir.serving.batcher import Started
from hybrid_ir.serving.release import Release
from hybrid_ir.serving.searching.gathered import Shown


def search_body(
    manifest: Manifest,
    languages: tuple[str, ...] | None,
    results: Sequence[Shown],
    request: SearchRequest,
    missing: set[int],
    started: Sequence[Started | None],
    begun: float,
    rerank_s: float | None = None,
) -> dict[str, Any]:
    """A SearchResponse: what is shown of each query, what is missing, where the time went.

    `begun` is when the request was read (time.perf_counter); `rerank_s`, what the reranker took, if it was asked."""
    wanted = set(languages or manifest.languages)
    began = [one for one in started if one is not None]
    queue_s = max((one.queue_s for one in began), default=0.0)
    encode_s = max((one.encode_s for one in began), default=0.0)
    total_s = time.perf_counter() - begun
    body: dict[str, Any] = {
        "results": [
            {
                "hits": [
                    {
                        "position": position,
                        "doc_id": passage.doc_id,
                        "text": passage.text,
                        "language": passage.language,
                        "score": score,
                        "metadata": passage.metadata,
                    }
                    for position, (passage, score) in enumerate(shown.hits, start=(request.offset or 0) + 1)
                ],
                "cut": None if one is None else one.cut,
            }
            for shown, one in zip(results, started, strict=True)
        ],
        "coverage": {
            "complete": not missing,
            "shards": len(manifest.shards) - len(missing),
            "shards_total": len(manifest.shards),
            "shards_missing": [manifest.shards[n].name for n in sorted(missing)],
            "languages_missing": sorted({x for n in missing for x in manifest.shards[n].living} & wanted),
        },
        "space_id": manifest.space["id"],
        "index_version": manifest.index_version,
        "timings_ms": {
            "queue": round(queue_s * 1000, 3),
            "encode": round(encode_s * 1000, 3),
            "search": round(max(0.0, total_s - queue_s - encode_s - (rerank_s or 0.0)) * 1000, 3),
            **({} if rerank_s is None else {"rerank": round(rerank_s * 1000, 3)}),
            "total": round(total_s * 1000, 3),
        },
    }
    for result, shown in zip(body["results"], results, strict=True):
        if shown.cut is not None:
            result["groups_cut"] = shown.cut
        if shown.reranked is not None:
            result["reranked"] = shown.reranked
        if shown.more is not None:
            for hit, more in zip(result["hits"], shown.more, strict=True):
                hit |= more
    return body


def keep_fields(body: dict[str, Any], fields: Sequence[str]) -> None:
    """Take out of a SearchResponse's hits what `fields` does not name."""
    left_out = {"text", "language"}.difference(fields)
    keys = {name.removeprefix("metadata.") for name in fields if name.startswith("metadata.")}
    for hit in (hit for result in body["results"] for hit in result["hits"]):
        for name in left_out:
            del hit[name]
        if "metadata" not in fields:
            metadata = hit.pop("metadata")
            if keys:
                hit["metadata"] = {key: value for key, value in metadata.items() if key in keys}


def first_values(vectors_QD: np.ndarray, dimension: int) -> np.ndarray:
    """The first `dimension` values of each vector, brought to unit length; the vectors themselves if they have no more.

    One whose first values are all 0 stays so.
    """
    if dimension == vectors_QD.shape[1]:
        return vectors_QD
    first = vectors_QD[:, :dimension]
    return first / np.maximum(np.linalg.norm(first, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def ready_body(
    release: Release, wanted: tuple[str, str], reranker: bool | None, stopping: bool = False
) -> dict[str, Any]:
    """A `Ready` as plain data. `wanted` is (index, version) of what is to be served, which a gateway may yet load;
    `reranker`, whether it answers, None where none is served."""
    missing, encoder = release.down()
    manifest = release.manifest
    return {
        "ready": encoder and not missing and reranker is not False and not stopping,
        "shards_missing": [manifest.shards[n].name for n in missing],
        "encoder": encoder,
        **({} if reranker is None else {"reranker": reranker}),
        **({"stopping": True} if stopping else {}),
        "index_version": manifest.index_version,
        "wanted_version": wanted[1],
    }


def stats_body(release: Release, previous: str | None, wanted: tuple[str, str]) -> dict[str, Any]:
    """A `Stats` as plain data."""
    manifest = release.manifest
    missing, _ = release.down()
    return {
        "index": release.index,
        "index_version": manifest.index_version,
        "wanted_index": wanted[0],
        "wanted_version": wanted[1],
        "previous_index": previous,
        "space_id": manifest.space["id"],
        "placement": release.placement,
        "codec": manifest.codec,
        "passages": manifest.rows,
        "languages": manifest.languages,
        "metadata_keys": manifest.metadata_keys,
        "shards": [
            {
                "name": shard.name,
                "passages": sum(shard.living.values()),
                "languages": shard.living,
                "up": n not in missing,
            }
            for n, shard in enumerate(manifest.shards)
        ],
        "recall": manifest.recall,
        "versions": manifest.versions,
    }
