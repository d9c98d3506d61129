"""The Serve app's ingress: HTTP through the release that serves.

In: a release's spec, settings, keys. Out: Serve's ingress, which follows the registry.
A gateway holds that release and the one before it. A swap loads the new one beside them, then all gateways turn to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import ray
import ray.exceptions
from ray import serve
from ray.util import metrics
from starlette.types import ASGIApp

from hybrid_ir.config import Serve
from hybrid_ir.serving.http_app import create_app
from hybrid_ir.serving.ray_serve.distributed_release import DistributedRelease
from hybrid_ir.serving.ray_serve.registry import Spec, registry
from hybrid_ir.serving.release import Release
from hybrid_ir.serving.search_service import SearchService
from hybrid_ir.types import InputError

log = logging.getLogger("ray.serve")
FIRST_ANSWERS_S = 10
"""A gateway waits so long for the shards and the encoder of a release that it has just turned to."""
MILLISECONDS = [m / 1000 for m in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)]


class Gateway:
    """The ingress: HTTP in, micro-batches out to the encoder and the shards."""

    async def __init__(
        self, spec: Spec, settings: dict[str, Any], api_keys: tuple[str, ...], placement: str, threads: int, *_: Any
    ) -> None:
        """The further arguments are handles of the first release's deployments, so that Serve deploys them."""
        self._settings = Serve(**settings)
        _check_interface(self._settings, api_keys)
        self._keys = api_keys
        self._threads = threads
        context = serve.get_replica_context()
        self._id = context.replica_id.unique_id
        if placement == "distributed" and spec["app"] is None:
            spec = {**spec, "app": context.app_name}
        self._registry = registry()
        state = await self._registry.join.remote(spec, None)
        self._specs = {state["active"]["index"]: state["active"]}
        release = await self._open(state["active"])
        totals = Metrics()
        self._service = SearchService(release, self._settings, totals.observe)
        self._flushing = asyncio.get_running_loop().create_task(totals.flush_for_ever())
        self._loaded: dict[str, str | None] = {release.index: None}
        self._watching = asyncio.get_running_loop().create_task(self._watch(state))

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return create_app(self._service, self._keys)

    async def _open(self, spec: Spec) -> Release:
        """Raises InputError."""
        if spec["app"] is not None:
            release = DistributedRelease(spec["index"], spec["app"])
            await release.wait(FIRST_ANSWERS_S)
            return release

        def load() -> Release:
            # Torch is imported only where an encoder runs: it takes a gateway of a distributed release seconds.
            from hybrid_ir.serving.local_release import LocalRelease

            return LocalRelease(spec["index"], checkpoint=spec["checkpoint"], threads=self._threads)

        return await asyncio.get_running_loop().run_in_executor(None, load)

    async def _watch(self, state: dict[str, Any]) -> None:
        """Follow the registry for ever: load what it names, then serve what it says."""
        while True:
            try:
                await self._follow(state)
                state = await self._registry.watch.remote(self._id, state["number"], self._loaded)
                if state["active"] is None:  # the registry was restarted and knows nothing
                    active = self._specs[self._service.release.index]
                    state = await self._registry.join.remote(active, self._specs.get(self._service.previous or ""))
            except ray.exceptions.RayError as error:
                log.warning("the registry of releases does not answer (%s); asking again", error)
                await asyncio.sleep(1)

    async def _follow(self, state: dict[str, Any]) -> None:
        wanted = [spec for spec in (state["active"], state["previous"], state["candidate"]) if spec is not None]
        self._specs = {spec["index"]: spec for spec in wanted}
        self._loaded = {index: why for index, why in self._loaded.items() if index in self._specs}
        for spec in wanted:
            if spec["index"] not in self._loaded:
                try:
                    self._service.hold(await self._open(spec))
                    self._loaded[spec["index"]] = None
                except Exception as error:  # told to whoever swaps; what serves goes on serving
                    log.warning("%s cannot be served: %s", spec["index"], error)
                    self._loaded[spec["index"]] = str(error)
        active, previous = state["active"]["index"], (state["previous"] or {}).get("index")
        if self._service.holds(active):
            keep = [spec["index"] for spec in (state["previous"], state["candidate"]) if spec is not None]
            self._service.activate(active, previous, keep)


def check_public(host: str | None, settings: Serve, keys: Sequence[str]) -> None:
    """Raises InputError for an interface that others can reach, without API keys."""
    if keys or settings.allow_public or host in ("127.0.0.1", "localhost", "::1"):
        return
    raise InputError(
        f"the interface {host or '0.0.0.0'} is public and there is no API key: set HYBRID_IR_API_KEYS, "
        "or listen on 127.0.0.1, or say serve.allow_public=true"
    )


def _check_interface(settings: Serve, keys: Sequence[str]) -> None:
    """The same in a replica, about the interface that Serve really listens on (a YAML file may name another)."""
    from ray.serve.context import _get_global_client

    check_public(_get_global_client().http_config.host, settings, keys)  # type: ignore[union-attr]


class Metrics:
    """Adds up what the service observes and hands it to Ray once a second: one of Ray's own observations takes as
    long as a tenth of a search.

    A histogram is kept as Prometheus keeps it: counters `_bucket` (label `le`), `_sum` and `_count`.
    """

    HISTOGRAMS: ClassVar = {
        "request_seconds": (MILLISECONDS, ("route",)),
        "encode_seconds": (MILLISECONDS, ()),
        "shard_seconds": (MILLISECONDS, ("shard",)),
        "batch_size": ((1, 2, 4, 8, 16, 32, 64), ()),
    }
    COUNTERS: ClassVar = {"requests": ("language",), "rejected": (), "deadline_exceeded": ()}

    def __init__(self) -> None:
        self._counters = {
            name: metrics.Counter(f"hybrid_ir_{name}", tag_keys=labels)
            for name, labels in [
                *self.COUNTERS.items(),
                *((f"{n}_bucket", (*labels, "le")) for n, (_, labels) in self.HISTOGRAMS.items()),
                *((f"{n}_{part}", labels) for n, (_, labels) in self.HISTOGRAMS.items() for part in ("sum", "count")),
            ]
        }
        self._queue = metrics.Gauge("hybrid_ir_queue_length", "Queries that wait")
        self._sums: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()
        self._length = 0.0

    def observe(self, name: str, value: float, labels: dict[str, str]) -> None:
        if name == "queue_length":
            self._length = value
            return
        tags = tuple(labels.items())
        if name not in self.HISTOGRAMS:
            self._sums[name, tags] += value  # type: ignore[assignment]
            return
        for bound in self.HISTOGRAMS[name][0]:
            if value <= bound:
                self._sums[f"{name}_bucket", (*tags, ("le", str(bound)))] += 1
        self._sums[f"{name}_bucket", (*tags, ("le", "+Inf"))] += 1
        self._sums[f"{name}_sum", tags] += value  # type: ignore[assignment]
        self._sums[f"{name}_count", tags] += 1

    async def flush_for_ever(self) -> None:
        while True:
            await asyncio.sleep(1)
            sums, self._sums = self._sums, Counter()
            for (name, tags), value in sums.items():
                if value > 0:
                    self._counters[name].inc(value, dict(tags))
            self._queue.set(self._length)
