"""A gateway's metrics, under Prometheus' conventions. In: what the service observes. Out: Ray's metrics port.

Ray puts `ray_` before a name, and `_total` behind a counter's. Durations are in seconds.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar

from ray.util.metrics import Counter, Gauge, Histogram

from hybrid_ir.serving.search_service import SearchService

SECONDS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]
REFRESH_S = 1.0


class GatewayMetrics:
    """Counters and histograms as they are observed; gauges once a second, also while nothing else moves."""

    HISTOGRAMS: ClassVar = {
        "request_duration_seconds": ("From a request to its answer, errors too", SECONDS, ("route", "code")),
        "encode_duration_seconds": ("Encoding of those of a micro-batch that are not in the cache", SECONDS, ()),
        "shard_duration_seconds": ("Search of a micro-batch in a shard", SECONDS, ("shard",)),
        "rerank_duration_seconds": ("Reranking of a request, until its end or its deadline", SECONDS, ()),
        "batch_size": ("Queries in a micro-batch", [1, 2, 4, 8, 16, 32, 64], ()),
    }
    COUNTERS: ClassVar = {
        "requests": ("Requests by their answer's status; 499: the client left", ("route", "code")),
        "searches": ("Searches by language asked for; all where none is", ("language",)),
        "missing_shards": ("Searches that a shard did not answer", ("shard",)),
        "rerank_late": ("Texts that were not reranked in time", ()),
        "query_cache_hits": ("Queries whose vectors were there", ()),
        "query_cache_misses": ("Queries that had to be encoded", ()),
    }
    GAUGES: ClassVar = {
        "queue_length": ("Texts that wait to be encoded", ()),
        "queue_oldest_seconds": ("How long the first of them has waited", ()),
        "release_info": ("1; its labels say what is served", ("index", "index_version", "space_id")),
        "shards_down": ("Shards that do not answer", ()),
    }

    def __init__(self) -> None:
        self._observed = {
            name: Histogram(f"hybrid_ir_{name}", help_, boundaries=bounds, tag_keys=labels)
            for name, (help_, bounds, labels) in self.HISTOGRAMS.items()
        }
        self._counted = {
            name: Counter(f"hybrid_ir_{name}", help_, tag_keys=labels)
            for name, (help_, labels) in self.COUNTERS.items()
        }
        self._gauges = {
            name: Gauge(f"hybrid_ir_{name}", help_, tag_keys=labels) for name, (help_, labels) in self.GAUGES.items()
        }
        self._served: dict[str, str] = {}

    def observe(self, name: str, value: float, labels: dict[str, str]) -> None:
        if name in self._observed:
            self._observed[name].observe(value, labels)
        else:
            self._counted[name].inc(value, labels)

    def refresh(self, service: SearchService) -> None:
        """Set the gauges to how the service stands."""
        self._gauges["queue_length"].set(service.waiting)
        self._gauges["queue_oldest_seconds"].set(service.waited_s())
        missing, _ = service.release.down()
        self._gauges["shards_down"].set(len(missing))
        manifest = service.release.manifest
        served = {
            "index": service.release.index,
            "index_version": manifest.index_version,
            "space_id": manifest.space["id"],
        }
        if self._served not in ({}, served):
            self._gauges["release_info"].set(0, self._served)
        self._gauges["release_info"].set(1, served)
        self._served = served

    async def refresh_for_ever(self, service: SearchService) -> None:
        while True:
            self.refresh(service)
            await asyncio.sleep(REFRESH_S)
