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
from hybrid_ir.serving.layers.door import Door
from hybrid_ir.serving.layers.measured import measured
from hybrid_ir.serving.layers.rate_limit import Buckets, limited
from hybrid_ir.serving.layers.traced import traced
from hybrid_ir.serving.ray_serve.distributed_release import DistributedRelease, DistributedScorer
from hybrid_ir.serving.ray_serve.gateway_metrics import GatewayMetrics
from hybrid_ir.serving.ray_serve.registry import Spec, State, registry, release_key, retire
from hybrid_ir.serving.ray_serve.writer import NoWriter, WriterHandle
from hybrid_ir.serving.release import Release
from hybrid_ir.serving.reranking.scorer import Scorer
from hybrid_ir.serving.search_service import SearchService
from hybrid_ir.serving.tracing.exporting import send_rest, tracer_of
from hybrid_ir.types import InputError, one_line

log = logging.getLogger("ray.serve")
FIRST_ANSWERS_S = 10
"""A gateway waits so long for the shards and the encoder of a release that it has just turned to."""
LISTEN_S = 0.5
"""So often a gateway that loads asks whether the service stops."""


class Gateway:
    """The ingress: HTTP in, micro-batches out to the encoder and the shards."""

    _tracer: Any = None

    async def __init__(
        self,
        deployment: str,
        spec: Spec,
        settings: dict[str, Any],
        api_keys: tuple[str, ...],
        placement: str,
        threads: int,
        write_keys: tuple[str, ...] = (),
        writer: Any = None,
        *_: Any,
    ) -> None:
        """`deployment` tells this deploy from others. The further arguments are handles of the first release's
        deployments, so that Serve deploys them."""
        self._settings = Serve(**settings)
        _check_interface(self._settings, api_keys)
        check_rate_limit(self._settings, api_keys)
        self._keys, self._write_keys = api_keys, write_keys
        self._writer: Any = NoWriter() if writer is None else WriterHandle(writer)
        self._threads = threads
        self._tracer = tracer_of("gateway") if self._settings.traces else None
        self._last: Any = None  # the local release that was loaded last
        self._metrics, self._door = GatewayMetrics(), Door()
        context = serve.get_replica_context()
        self._id = context.replica_id.unique_id
        self._app = context.app_name
        if placement == "distributed" and spec["app"] is None:
            spec = {**spec, "app": self._app}
        self._registry = registry()
        scorer = await self._scorer(placement)
        state = await self._registry.state.remote(self._app)
        restarted, wanted = False, spec
        if state is not None and deployment in (state["deployment"], *state["past"]):
            restarted, wanted = True, state["active"]
        # A release serves once it is loaded, and what serves may change meanwhile.
        while True:
            release = await self._open(wanted, may_lack_shards=restarted)
            await self._registry.deployed.remote(self._app, deployment, spec)
            # Who swaps waits for this one from its first report on. So what serves is compared after it.
            report = {"number": -1, "loaded": {release.key: None}, "serves": release.key}
            state = await self._registry.watch.remote(self._app, self._id, -1, report)
            if release_key(state["active"]) == release.key:
                break
            release.close()
            wanted = state["active"]
        if not restarted:
            self._forget(await self._in_thread(retire, state))
        self._service = SearchService(release, self._settings, self._metrics.observe, scorer)
        self._refreshing = asyncio.get_running_loop().create_task(self._metrics.refresh_for_ever(self._service))
        self._loaded: dict[str, str | None] = {release.key: None}
        self._number = -1
        self._watching = asyncio.get_running_loop().create_task(self._watch(state))

    def __del__(self) -> None:
        """Serve calls it, also of a gateway that it takes away, and kills the process next."""
        if self._tracer is not None:
            send_rest(self._tracer)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        app = create_app(self._service, self._keys, self._writer, self._write_keys)
        if self._settings.requests_per_minute is not None:
            keys = dict.fromkeys((*self._keys, *self._write_keys))
            app = limited(app, Buckets(tuple(keys), self._settings.requests_per_minute))
        app = self._door.around(app, lambda: self._service.stopping)
        if self._tracer is not None:
            app = traced(app, self._tracer)
        return measured(app, self._metrics.observe, access_log=self._settings.access_log)

    async def check_health(self) -> None:
        """Serve starts another gateway in place of one whose encoder or shards are stuck in its own process."""
        self._service.release.check()
        self._service.reranking.check()

    async def _open(self, spec: Spec, *, may_lack_shards: bool = False) -> Release:
        """Raises InputError. One that has served may lack shards by now: the others are served."""
        if spec["app"] is not None:
            release: Any = DistributedRelease(spec["index"], spec["version"], spec["app"])
            await release.wait(FIRST_ANSWERS_S)
        else:
            release = await self._in_thread(self._load, spec, may_lack_shards)
        if release.key != release_key(spec):
            release.close()
            raise InputError(
                f"{spec['index']} is not what it was: its version is {release.manifest.index_version}, and "
                f"{spec['version']} is to be served; swap to it"
            )
        return release

    async def _scorer(self, placement: str) -> Scorer | None:
        """The reranker that the settings name, if they do. Raises InputError where it is none."""
        if self._settings.reranker is None:
            return None
        if placement == "local":
            return await self._in_thread(self._load_scorer)
        scorer = DistributedScorer(self._app)
        await scorer.wait(FIRST_ANSWERS_S)
        return scorer

    def _load_scorer(self) -> Scorer:
        from hybrid_ir.serving.reranking.local_scorer import LocalScorer  # torch comes with it, as with an encoder

        assert self._settings.reranker is not None
        return LocalScorer(self._settings.reranker, self._settings.rerank_max_tokens, self._threads)

    def _load(self, spec: Spec, may_lack_shards: bool) -> Release:
        # Torch is imported only where an encoder runs: it takes a gateway of a distributed release seconds.
        from hybrid_ir.serving.local_release import LocalRelease

        self._last = LocalRelease(
            spec["index"],
            spec["version"],
            checkpoint=spec["checkpoint"],
            threads=self._threads,
            may_lack_shards=may_lack_shards,
            precision=self._settings.precision,
            like=self._last,
        )
        return self._last

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)

    def _forget(self, apps: list[str]) -> None:
        if apps:
            self._registry.disown.remote(self._app, apps)

    async def _watch(self, state: State) -> None:
        """Follow the registry for ever: load what it names, then serve what it says, and report both."""
        while True:
            try:
                state = await self._followed(state)
                report = {"number": self._number, "loaded": self._loaded, "serves": self._service.release.key}
                state = await self._registry.watch.remote(self._app, self._id, state["number"], report)
            except ray.exceptions.RayError as error:
                log.warning("the registry of releases does not answer (%s); asking again", error)
                await asyncio.sleep(1)

    async def _followed(self, state: State) -> State:
        """Follow that state, which is returned; or the one that stops the service meanwhile: loading may take minutes,
        and is left then."""
        following = asyncio.create_task(self._follow(state))
        try:
            while not (await asyncio.wait({following}, timeout=LISTEN_S))[0]:
                try:
                    now = await self._registry.state.remote(self._app)
                except ray.exceptions.RayError:  # it is started again; what loads goes on loading
                    continue
                if now is not None and now.get("stopping") and not state.get("stopping"):
                    following.cancel()
                    await self._follow(now)
                    return now
            following.result()
            return state
        finally:
            following.cancel()

    async def _follow(self, state: State) -> None:
        self._service.stopping = state.get("stopping", False)
        if self._service.stopping:  # nothing is loaded any more; who stops it is told once all have left
            self._number = state["number"]
            await self._door.all_left(self._settings.deadline_ms / 1000 + 1)
            if self._tracer is not None:
                await self._in_thread(send_rest, self._tracer)
            return
        active, previous = state["active"], state["previous"]
        candidate = state["candidate"] if state["loading"] else None
        wanted = {release_key(spec): spec for spec in (active, previous, candidate) if spec is not None}
        # A candidate is tried once, and whoever proposed it is told. What is to serve is tried for as long as it takes.
        retried = wanted.keys() if state["number"] != self._number else {release_key(active)}
        self._loaded = {k: why for k, why in self._loaded.items() if k in wanted and (why is None or k not in retried)}
        self._number = state["number"]
        for key, spec in wanted.items():
            if key not in self._loaded:
                try:
                    self._service.hold(await self._open(spec))
                    self._loaded[key] = None
                except Exception as error:  # told to whoever swaps; what serves goes on serving
                    log.warning("%s cannot be served: %s", spec["index"], error)
                    self._loaded[key] = one_line(error) or type(error).__name__
        self._service.wanted = active["index"], active["version"]
        if self._service.holds(release_key(active)):
            keep = [release_key(spec) for spec in (previous, candidate) if spec is not None]
            self._service.activate(release_key(active), previous and previous["index"], keep)


def check_public(host: str | None, settings: Serve, keys: Sequence[str]) -> None:
    """Raises InputError for an interface that others can reach, without API keys."""
    if keys or settings.allow_public or host in ("127.0.0.1", "localhost", "::1"):
        return
    raise InputError(
        f"the interface {host or '0.0.0.0'} is public and there is no API key: set HYBRID_IR_API_KEYS, "
        "or listen on 127.0.0.1, or say serve.allow_public=true"
    )


def check_rate_limit(settings: Serve, keys: Sequence[str]) -> None:
    """Raises InputError for a limit a key where nobody needs a key. By address would be no limit: behind a proxy, and
    HAProxy is one, all have the same."""
    if settings.requests_per_minute is not None and not keys:
        raise InputError(
            f"serve.requests_per_minute={settings.requests_per_minute} counts by API key, and there is none: set "
            "HYBRID_IR_API_KEYS, or leave it out"
        )


def _check_interface(settings: Serve, keys: Sequence[str]) -> None:
    """The same in a replica, about the interface that Serve really listens on (a YAML file may name another)."""
    from ray.serve.context import _get_global_client

    check_public(_get_global_client().http_config.host, settings, keys)  # type: ignore[union-attr]
