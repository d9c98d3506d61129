"""The one process of a service that writes into its index, and the gateways' way to it.

In: passages to put, a doc_id to delete. Out: a new version of the index that is served, which every gateway serves.

Changes are made one after the other. One that dies in the middle leaves the version before, or the new one; whoever
asked is told that it is not known which, and asks again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import ray.exceptions
from ray import serve

from hybrid_ir.index import read_manifest
from hybrid_ir.serving.checks import RequestError
from hybrid_ir.serving.ray_serve.registry import registry, release_key
from hybrid_ir.serving.ray_serve.swapping import Stopping, Unserved, turn_to

WAITING = 64
"""Changes that may wait in one gateway; more get 429."""
PATIENCE_S = 30
"""For the first change of a writer: the one before it may have been killed, and its process may take so long to end."""


class WriterReplica:
    """What Serve runs once, and starts again where it ends."""

    def __init__(self) -> None:
        self._app = serve.get_replica_context().app_name
        self._registry = registry()
        self._writer: Any = None
        self._busy = asyncio.Lock()

    async def change(self, method: str, argument: Any) -> tuple[dict[str, Any], tuple[int, str, str] | None]:
        """(`Written`, None), or what is to be answered in its place: status, type and message."""
        async with self._busy:
            try:
                return await asyncio.get_running_loop().run_in_executor(None, self._change, method, argument), None
            except RequestError as error:
                return {}, (error.status, error.type, error.message)

    def _change(self, method: str, argument: Any) -> dict[str, Any]:
        state: Any = ray.get(self._registry.state.remote(self._app))
        active, previous = state["active"], state["previous"]
        index = active["index"]
        if state.get("stopping"):  # it waited for another change meanwhile
            raise RequestError(503, "stopping", "the service is stopping, and nothing was changed; send it again later")
        current = release_key({**active, "version": read_manifest(index).index_version})
        if previous is not None and current == release_key(previous) != release_key(active):
            raise RequestError(
                409,
                "went_back",
                f"the service went back from the current version of {index}: serve it again (hybrid-ir swap --index "
                f"{index}), or another index, before you write",
            )
        if self._writer is None:  # torch comes with it, which a start need not wait for
            from hybrid_ir.serving.writing.index_writer import IndexWriter

            self._writer = IndexWriter(PATIENCE_S)
        written = getattr(self._writer, method)(index, argument)
        try:
            turn_to(self._app, self._registry, index, written["index_version"])
        except Stopping as error:
            raise RequestError(
                503,
                "stopping",
                f"version {written['index_version']} was written, and is served from the next start on: the service is "
                "stopping",
            ) from error
        except Unserved as error:
            raise RequestError(
                503,
                "not_served",
                f"version {written['index_version']} was written, and is not served: {error}; hybrid-ir swap --index "
                f"{index}",
            ) from error
        return written


class WriterHandle:
    """What a gateway asks: a `Writer`."""

    def __init__(self, handle: Any) -> None:
        self._handle, self._waiting = handle, 0

    async def put(self, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return await self._ask("put", list(records))

    async def delete(self, doc_id: str) -> dict[str, Any]:
        return await self._ask("delete", doc_id)

    async def _ask(self, method: str, argument: Any) -> dict[str, Any]:
        if self._waiting >= WAITING:
            raise RequestError(429, "busy", f"{self._waiting} changes are waiting already; ask again in a second")
        self._waiting += 1
        try:
            written, refused = await self._handle.change.remote(method, argument)
        except ray.exceptions.RayError as error:
            raise RequestError(
                503,
                "writer_ended",
                "the writer ended meanwhile, so the change was made as a whole, or not at all; send it again",
            ) from error
        finally:
            self._waiting -= 1
        if refused is not None:
            raise RequestError(*refused)
        return written


class NoWriter:
    """The `Writer` of a service whose shards are deployments of their own: it says how to write all the same."""

    async def put(self, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
        raise self._refusal()

    async def delete(self, doc_id: str) -> dict[str, Any]:
        raise self._refusal()

    def _refusal(self) -> RequestError:
        return RequestError(
            409,
            "not_writable",
            "with serve.placement=distributed nothing is written over HTTP: use hybrid-ir index replace or delete, "
            "then hybrid-ir swap",
        )
