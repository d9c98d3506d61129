"""The registry: which release each app serves. One small actor that every gateway watches, so that a swap reaches all.

In: what was deployed, what operators want, what each gateway has loaded and serves. Out: the state that gateways
follow. It is kept in Ray's key-value store: an actor that is started again goes on with it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, MutableMapping
from typing import Any

import ray

REGISTRY = "hybrid_ir_releases"
NAMESPACE = "hybrid_ir"
OPERATOR_S = 15
"""An operator who has been silent for so long is gone, and another may begin a swap."""

Spec = dict[str, Any]
"""Of a release: {"index": folder, "version": the index's, "checkpoint": folder or None, "app": its shards' Serve app,
or None when local, "settings": those of `Serve` that its encoder and shards have (an older version has none)}."""
State = dict[str, Any]
"""Of an app: {"number": counts its changes, "deployment": id of the deploy it began with, "past": ids of those before,
"active", "previous", "candidate": Specs or None, "loading": whether gateways are to load the candidate, "stopping":
whether they are to let nothing in (an older version has none),
"owned": Serve apps that swaps made for it}."""


def release_key(spec: Spec) -> str:
    """A release is a folder and a version."""
    return f"{spec['index']}@{spec['version']}"


class Releases:
    """The states of all apps. One changes by whole values with a number, and only for who names the number it has."""

    def __init__(self, store: MutableMapping[str, bytes] | None = None) -> None:
        """`store` keeps what the actor must not forget; Ray's by default."""
        self._store = KeyValues() if store is None else store
        self._states: dict[str, State] = {app: json.loads(self._store[app]) for app in self._store}
        self._changed = asyncio.Condition()
        self._gateways: dict[str, dict[str, dict[str, Any]]] = {}
        self._operators: dict[str, float] = {}

    async def state(self, app: str) -> State | None:
        return self._states.get(app)

    async def apps(self) -> list[str]:
        return sorted(self._states)

    async def deployed(self, app: str, deployment: str, spec: Spec) -> State:
        """The state of an app, which a gateway of this deploy has just loaded `spec` for.

        A deploy that is new is what the operator wants now: its release serves. A gateway of an earlier one, which
        comes late, changes nothing; nor does one that was only started again.
        """
        state = self._states.get(app)
        if state is None:
            state = {"number": 0, "deployment": "", "past": [], "owned": []}
        if deployment in (state["deployment"], *state["past"]):
            return state
        return await self._set(
            app, state, deployment=deployment, past=[*state["past"], state["deployment"]][-20:], active=spec,
            previous=None, candidate=None, loading=False, stopping=False,
        )  # fmt: skip

    async def watch(self, app: str, gateway: str, number: int, report: dict[str, Any]) -> State:
        """The state, once it is not `number` any more, or after two seconds.

        `report` has the "number" that the gateway has followed, what it has "loaded" ({key: None or why it failed}),
        and the key that it "serves".
        """
        async with self._changed:
            self._gateways.setdefault(app, {})[gateway] = report
            try:
                async with asyncio.timeout(2):
                    await self._changed.wait_for(lambda: self._states[app]["number"] != number)
            except TimeoutError:
                pass
            return self._states[app]

    async def reports(self, app: str) -> dict[str, dict[str, Any]]:
        """What each gateway said last, dead ones included: Serve knows which there are."""
        self._operators[app] = time.monotonic()
        return self._gateways.get(app, {})

    async def propose(self, app: str, number: int, candidate: Spec, *, loading: bool) -> State | None:
        """The candidate is to be loaded beside what serves, at once or when `load` says so. None if the number is
        another by now, or another operator's candidate is being loaded."""
        state = self._states[app]
        busy = state["candidate"] is not None and time.monotonic() - self._operators.get(app, 0) < OPERATOR_S
        if state["number"] != number or busy:
            return None
        self._operators[app] = time.monotonic()
        made = {candidate["app"]} - {None, *state["owned"]}
        return await self._set(app, state, candidate=candidate, loading=loading, owned=[*state["owned"], *made])

    async def change(self, app: str, number: int, step: str) -> State | None:
        """The step of who proposed a candidate: load, activate or withdraw it. None if the number is another by now."""
        state = self._states[app]
        if state["number"] != number or state["candidate"] is None:
            return None
        if step == "load":
            return await self._set(app, state, loading=True)
        done = {"candidate": None, "loading": False}
        if step == "activate":
            done |= {"active": state["candidate"], "previous": state["active"]}
        return await self._set(app, state, **done)

    async def stop(self, app: str) -> State | None:
        """Gateways are to let no more requests in. They say so once all that were in have left. None = no such app."""
        state = self._states.get(app)
        return None if state is None else await self._set(app, state, stopping=True)

    async def disown(self, app: str, names: list[str]) -> None:
        """Those Serve apps are gone."""
        state = self._states[app]
        await self._set(app, state, owned=[name for name in state["owned"] if name not in names])

    async def _set(self, app: str, state: State, **changes: Any) -> State:
        new = {**state, **changes, "number": state["number"] + 1}
        self._store[app] = json.dumps(new).encode()
        async with self._changed:
            self._states[app] = new
            self._changed.notify_all()
        return new


class KeyValues(MutableMapping[str, bytes]):
    """Ray's key-value store, which lives as long as the cluster."""

    SPACE = NAMESPACE.encode()

    def __getitem__(self, key: str) -> bytes:
        from ray.experimental.internal_kv import _internal_kv_get

        found = _internal_kv_get(key.encode(), namespace=self.SPACE)
        if found is None:
            raise KeyError(key)
        return found

    def __setitem__(self, key: str, value: bytes) -> None:
        from ray.experimental.internal_kv import _internal_kv_put

        _internal_kv_put(key.encode(), value, overwrite=True, namespace=self.SPACE)

    def __delitem__(self, key: str) -> None:
        from ray.experimental.internal_kv import _internal_kv_del

        _internal_kv_del(key.encode(), namespace=self.SPACE)

    def __iter__(self) -> Iterator[str]:
        from ray.experimental.internal_kv import _internal_kv_list

        return (key.decode() for key in _internal_kv_list(b"", namespace=self.SPACE))

    def __len__(self) -> int:
        return sum(1 for _ in self)


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


def retire(state: State) -> list[str]:
    """Delete the Serve apps that swaps made and nothing needs any more; the names. Of other apps none is touched."""
    from ray import serve

    kept = {spec["app"] for spec in (state["active"], state["previous"], state["candidate"]) if spec is not None}
    unneeded = [name for name in state["owned"] if name not in kept]
    for name in set(unneeded) & set(serve.status().applications):
        serve.delete(name, _blocking=False)
    return unneeded
