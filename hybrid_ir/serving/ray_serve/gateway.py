"""The Serve app's ingress: HTTP through the release that serves.

In: a release's spec, settings, keys. Out: Serve's ingress, which follows the registry.
A gateway holds that release and the one before it. A swap loads the new one beside them, then all gateways turn to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import ray
import ray.exceptions
from ray import serve
from starlette.types import ASGIApp

from hybrid_ir.config import Serve
from hybrid_ir.serving.http_app import create_app
from hybrid_ir.serving.measured import measured
from hybrid_ir.serving.ray_serve.distributed_release import DistributedRelease
from hybrid_ir.serving.ray_serve.gateway_metrics import GatewayMetrics
from hybrid_ir.serving.ray_serve.registry import Spec, registry
from hybrid_ir.serving.release import Release
from hybrid_ir.serving.search_service import SearchService
from hybrid_ir.types import InputError

log = logging.getLogger("ray.serve")
FIRST_ANSWERS_S = 10
"""A gateway waits so long for the shards and the encoder of a release that it has just turned to."""


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
        self._metrics = GatewayMetrics()
        self._service = SearchService(release, self._settings, self._metrics.observe)
        self._refreshing = asyncio.get_running_loop().create_task(self._metrics.refresh_for_ever(self._service))
        self._loaded: dict[str, str | None] = {release.index: None}
        self._watching = asyncio.get_running_loop().create_task(self._watch(state))

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return measured(create_app(self._service, self._keys), self._metrics.observe)

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
