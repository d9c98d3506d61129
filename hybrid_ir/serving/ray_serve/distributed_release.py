"""A release whose encoder and shards are Serve deployments: calls that survive the death of a replica.

In: an index folder and the name of the app that holds its deployments. Out: a `Release`, and a reranker's `Scorer`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray.exceptions
from ray import serve
from ray.serve.exceptions import RayServeException

from hybrid_ir.index import IndexedPassage, Manifest, ShardQuery, Stored, open_statistics, read_manifest
from hybrid_ir.lexical import Statistics
from hybrid_ir.serving.release import Encoded, ShardAnswer, ShardDown
from hybrid_ir.serving.reranking.scorer import Scored
from hybrid_ir.serving.tracing.spans import CALLERS, carriers_of
from hybrid_ir.types import InputError

log = logging.getLogger("ray.serve")
PING_EVERY_S = 0.5
PING_TIMEOUT_S = 1.5
RERANKER = "reranker"
"""Its deployment's name: an app has one, whatever release it serves."""
TRIES = 4
"""Of one call: a replica that dies loses its calls, which another one answers."""


def deployment_names(manifest: Manifest) -> list[str]:
    """The encoder's, then each shard's. They name the version: two releases never share a deployment."""
    version = manifest.index_version[:8]
    return [f"encoder-{version}", *(f"shard-{shard.name}-{version}" for shard in manifest.shards)]


class Target:
    """Calls to one deployment: retried when a replica dies, refused at once while none answers."""

    def __init__(self, name: str, app: str) -> None:
        self._name = name
        self._handle = serve.get_deployment_handle(name, app)
        self._answered = time.monotonic()
        # Down until it has answered once: deployments of one app start together, in any order.
        self._down: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._down.set_result(None)
        self._pinging = asyncio.get_running_loop().create_task(self._ping_for_ever())

    @property
    def up(self) -> bool:
        return not self._down.done()

    async def call(self, method: str, *arguments: Any) -> Any:
        """Raises ShardDown when no replica answers."""
        callers = CALLERS.get()
        traced = {"carriers": carriers_of(callers)} if callers else {}
        for _ in range(TRIES):
            if not self.up:
                break
            remote = getattr(self._handle, method).remote(*arguments, **traced)
            response = asyncio.ensure_future(_await(remote))
            try:
                await asyncio.wait({response, self._down}, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                # Who asked is gone, as at the deadline of a second stage: the replica would compute for nobody.
                response.add_done_callback(lambda done: done.cancelled() or done.exception())
                remote.cancel()
                raise
            if not response.done():
                response.cancel()
                break
            try:
                result = response.result()
            except ray.exceptions.RayTaskError as error:
                if not isinstance(error.cause, ShardDown):
                    raise  # raised by our own code: a defect, not a dead replica
                log.info("%s: %s; asking another", self._name, error.cause)
                continue
            except (ray.exceptions.RayError, RayServeException, OSError) as error:
                log.info("%s: a replica is gone (%s); asking another", self._name, type(error).__name__)
                continue
            self._answered = time.monotonic()
            return result
        raise ShardDown(f"{self._name} does not answer")

    def close(self) -> None:
        self._pinging.cancel()

    async def _ping_for_ever(self) -> None:
        while True:
            try:
                async with asyncio.timeout(PING_TIMEOUT_S):
                    await _await(self._handle.ping.remote())
                if not self.up:
                    log.info("%s answers", self._name)
                    self._down = asyncio.get_running_loop().create_future()
                self._answered = time.monotonic()
            except Exception as error:  # whatever it is, no replica answered
                if self.up and time.monotonic() - self._answered > PING_TIMEOUT_S:
                    log.warning("%s does not answer (%s)", self._name, type(error).__name__)
                    self._down.set_result(None)
            await asyncio.sleep(PING_EVERY_S)


class DistributedScorer:
    """A reranker that is a deployment of a Serve app."""

    def __init__(self, app: str) -> None:
        self._target = Target(RERANKER, app)

    async def wait(self, timeout_s: float) -> None:
        """Until it answers, or the time is over: then the service begins without it, and says so."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and not self._target.up:
            await asyncio.sleep(0.05)

    async def score(self, query: str, texts: Sequence[str]) -> Scored:
        return await self._target.call("score", query, list(texts))

    def up(self) -> bool:
        return self._target.up

    def check(self) -> None:
        pass  # nothing computes in this process, and Serve checks the replicas themselves

    def close(self) -> None:
        self._target.close()


class DistributedRelease:
    """A release whose encoder and shards are deployments of a Serve app."""

    placement = "distributed"

    def __init__(self, index: str, version: str, app: str) -> None:
        self.index = index
        self.manifest = read_manifest(index, version)
        self.statistics: Statistics | None = None
        self.key = f"{index}@{self.manifest.index_version}"
        names = deployment_names(self.manifest)
        deployed = serve.status().applications
        if app not in deployed or not set(names) <= set(deployed[app].deployments):
            raise InputError(f"the Serve app {app} has no deployments of {index} any more; deploy or swap again")
        self._encoder = Target(names[0], app)
        self._shards = [Target(name, app) for name in names[1:]]

    async def wait(self, timeout_s: float) -> None:
        """Until all of it answers, or the time is over: then it serves as far as it goes, and says so. The counts of
        words, which no shard knows, are read first. Raises InputError where these are damaged."""
        try:
            self.statistics = await asyncio.to_thread(open_statistics, self.index, self.manifest)
        except InputError:
            self.close()
            raise
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and (self.down()[0] or not self._encoder.up):
            await asyncio.sleep(0.05)

    async def encode(self, texts: Sequence[str], role: str) -> Encoded:
        return await self._encoder.call("encode", list(texts), role)

    async def search(self, shard: int, vectors: np.ndarray, queries: Sequence[ShardQuery]) -> ShardAnswer:
        return await self._shards[shard].call("search", vectors, list(queries))

    async def read(self, shard: int, rows: Sequence[int]) -> list[IndexedPassage]:
        return await self._shards[shard].call("read", list(rows))

    async def labels(self, shard: int, rows: Sequence[int], key: str) -> list[tuple[str, str | None]]:
        return await self._shards[shard].call("labels", list(rows), key)

    async def find(self, shard: int, doc_id: str) -> Stored | None:
        return await self._shards[shard].call("find", doc_id)

    def down(self) -> tuple[list[int], bool]:
        return [n for n, shard in enumerate(self._shards) if not shard.up], self._encoder.up

    def check(self) -> None:
        pass  # nothing computes in this process, and Serve checks the replicas themselves

    def close(self) -> None:
        for target in (self._encoder, *self._shards):
            target.close()


async def _await(response: Any) -> Any:
    return await response
