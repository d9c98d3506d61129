"""The registry: which release serves. One small actor that every gateway watches, so that a swap reaches them all.

In: releases' specs, and what each gateway has loaded. Out: the state that gateways follow.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import ray

REGISTRY = "hybrid_ir_releases"
NAMESPACE = "hybrid_ir"

Spec = dict[str, Any]
"""Of a release: {"index": folder, "checkpoint": folder or None, "app": its shards' Serve app, or None when local}."""


class Releases:
    """Which release serves, which served before, which is to be loaded, and which gateway has loaded what.

    `state` changes by whole values with a number, so that a gateway sees each change once or the sum of several.
    """

    def __init__(self) -> None:
        self._state: dict[str, Any] = {"number": 0, "active": None, "previous": None, "candidate": None}
        self._changed = asyncio.Condition()
        self._seen: dict[str, tuple[float, dict[str, str | None]]] = {}

    async def join(self, active: Spec, previous: Spec | None) -> dict[str, Any]:
        """The state, which begins with what the first gateway serves (after a restart of this actor too)."""
        if self._state["active"] is None:
            await self._set(active=active, previous=previous)
        return self._state

    async def watch(self, gateway: str, number: int, loaded: dict[str, str | None]) -> dict[str, Any]:
        """The state, once it is not `number` any more, or after two seconds. `loaded` maps each index that the
        gateway has tried to load to None, or to why it failed."""
        async with self._changed:
            self._seen[gateway] = (time.monotonic(), loaded)
            self._changed.notify_all()
            try:
                async with asyncio.timeout(2):
                    await self._changed.wait_for(lambda: self._state["number"] != number)
            except TimeoutError:
                pass
            return self._state

    async def state(self) -> dict[str, Any]:
        return self._state

    async def propose(self, candidate: Spec) -> None:
        """Have every gateway load a release, beside the one that serves."""
        await self._set(candidate=candidate)

    async def withdraw(self) -> None:
        await self._set(candidate=None)

    async def loading(self, index: str) -> tuple[int, int, list[str]]:
        """(gateways that have loaded it, gateways there are, why any failed)."""
        live = [loaded for at, loaded in self._seen.values() if time.monotonic() - at < 5]
        reasons = [reason for loaded in live if (reason := loaded.get(index)) is not None]
        return sum(index in loaded and loaded[index] is None for loaded in live), len(live), reasons

    async def activate(self) -> None:
        """The candidate serves, what served is kept for a rollback."""
        await self._set(active=self._state["candidate"], previous=self._state["active"], candidate=None)

    async def roll_back(self) -> Spec | None:
        """The previous release serves again, and what served becomes the previous; None if there is none."""
        if self._state["previous"] is None:
            return None
        await self._set(active=self._state["previous"], previous=self._state["active"])
        return self._state["active"]

    async def _set(self, **changes: Any) -> None:
        async with self._changed:
            self._state = {**self._state, **changes, "number": self._state["number"] + 1}
            self._changed.notify_all()


def registry() -> Any:
    """The actor that holds `Releases`; made if there is none."""
    return (
        ray.remote(Releases)
        .options(
            name=REGISTRY, namespace=NAMESPACE, get_if_exists=True, lifetime="detached", num_cpus=0,
            max_restarts=-1, max_concurrency=1000,
        )
        .remote()
    )  # fmt: skip
