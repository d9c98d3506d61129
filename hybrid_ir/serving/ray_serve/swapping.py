"""Having a running service serve another release, and the one before again.

In: an index folder, or nothing. Out: what every gateway serves afterwards.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hybrid_ir.config import Serve
from hybrid_ir.index import read_manifest
from hybrid_ir.serving.ray_serve.control import refusal
from hybrid_ir.storage import absolute
from hybrid_ir.types import InputError

SWAP_TIMEOUT_S = 600


def swap(index: str, settings: Serve, *, checkpoint: str | None = None) -> dict[str, Any]:
    """Replace what the running service serves by another index and its encoder, once every gateway has loaded it.

    Returns the registry's state. Raises InputError if there is no service, or the release cannot be served: then
    what served goes on serving.
    """
    manifest = read_manifest(index)
    with _joined() as (ray, actor):
        state = ray.get(actor.state.remote())
        spec = {"index": absolute(index), "checkpoint": checkpoint, "app": None}
        if state["active"]["index"] == spec["index"]:
            raise InputError(f"{index} is what is served already; build the new release in another folder")
        if state["active"]["app"] is not None:
            from ray import serve

            from hybrid_ir.serving.ray_serve.deployments import build_release_app

            spec["app"] = f"release-{manifest.index_version[:8]}"
            try:
                serve.run(build_release_app(index, settings, checkpoint), name=spec["app"], route_prefix=None)
            except RuntimeError as error:
                refused = refusal(error, spec["app"])
                serve.delete(spec["app"])
                raise refused from error
        ray.get(actor.propose.remote(spec))
        deadline = time.monotonic() + SWAP_TIMEOUT_S
        while True:
            loaded, gateways, reasons = ray.get(actor.loading.remote(spec["index"]))
            if reasons or time.monotonic() > deadline:
                ray.get(actor.withdraw.remote())
                why = reasons[0] if reasons else f"{loaded} of {gateways} gateways loaded it in {SWAP_TIMEOUT_S} s"
                raise InputError(f"{index} cannot be served: {why}")
            if gateways and loaded == gateways:
                break
            time.sleep(0.2)
        ray.get(actor.activate.remote())
        state = ray.get(actor.state.remote())
        _retire(state)
        return state


def roll_back() -> dict[str, Any]:
    """Serve the release before again; it is still loaded. Raises InputError if there is none."""
    with _joined() as (ray, actor):
        if ray.get(actor.roll_back.remote()) is None:
            raise InputError("there is no release to go back to: nothing was swapped since the service started")
        return ray.get(actor.state.remote())


@contextmanager
def _joined() -> Iterator[tuple[Any, Any]]:
    """(ray, the registry actor) of the service that runs here, or at RAY_ADDRESS."""
    if "ray" not in sys.modules:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    from hybrid_ir.serving.ray_serve.registry import NAMESPACE, REGISTRY

    try:
        ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise InputError("no service runs here (no Ray was found); start one: hybrid-ir serve --index INDEX") from error
    try:
        try:
            actor = ray.get_actor(REGISTRY, namespace=NAMESPACE)
        except ValueError:
            raise InputError("no service runs on this Ray; start one: hybrid-ir serve --index INDEX") from None
        yield ray, actor
    finally:
        ray.shutdown()


def _retire(state: dict[str, Any]) -> None:
    """Delete the apps of releases that neither serve nor are kept for a rollback."""
    from ray import serve

    kept = {spec["app"] for spec in (state["active"], state["previous"]) if spec is not None}
    for name in serve.status().applications:
        if name.startswith("release-") and name not in kept:
            serve.delete(name)
