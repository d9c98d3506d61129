"""Running the service from the command line: start and stop it, swap its release, roll back.

In: an index folder and settings. Out: a service at an address, or one that serves another release. No torch here, and
no Ray until its environment is set.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hybrid_ir.cluster import ray_session
from hybrid_ir.config import Serve
from hybrid_ir.index import check_files, read_manifest
from hybrid_ir.storage import absolute
from hybrid_ir.types import InputError

APP = "hybrid-ir"
SWAP_TIMEOUT_S = 600


def refuse_used_port(host: str, port: int) -> None:
    """Raises InputError if something listens there already."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                f"port {port} on {host} cannot be used ({error.strerror}); choose another: serve.port=8001"
            ) from None


@contextmanager
def running(index: str, settings: Serve, *, checkpoint: str | None = None, verbose: bool = False) -> Iterator[str]:
    """Serve the index until the block ends; yields the address. Starts a Ray of its own unless RAY_ADDRESS names one.

    Raises InputError for what cannot be served: a port in use, a public interface without keys, a damaged index, an
    encoder of another space.
    """
    refuse_used_port(settings.host, settings.port)
    # What a glance shows is refused before anything starts; checksums and the encoder are the replicas' to check.
    manifest = read_manifest(index)
    for files in (manifest.files, *(shard.files for shard in manifest.shards)):
        check_files(index, files, checksums=False)
    if checkpoint is not None and not Path(checkpoint).is_dir():
        raise InputError(f"no encoder at {checkpoint}; leave --checkpoint out to use the index's own")
    # Read by Ray Serve when it is imported: HTTP goes straight to the gateway, and replicas' calls are cheaper
    # (measured by benchmarks/serve.py).
    if "ray.serve" not in sys.modules:
        os.environ.setdefault("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1")
        os.environ.setdefault("RAY_SERVE_ENABLE_HA_PROXY", "1" if sys.platform == "linux" else "0")
        os.environ.setdefault("RAY_SERVE_HAPROXY_METRICS_ENABLED", "0")
        # A gateway that is told to leave ends when its requests have, not half a minute later.
        os.environ.setdefault("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "1")
    with ray_session(verbose):
        from ray import serve

        if not verbose:
            logging.getLogger("ray.serve").setLevel(logging.ERROR)

        from hybrid_ir.serving.ray_serve.deployments import QUIET, api_keys, build_app
        from hybrid_ir.serving.ray_serve.gateway import check_public

        check_public(settings.host, settings, api_keys(settings))
        app = build_app(index, settings, checkpoint)
        serve.start(
            http_options={"host": settings.host, "port": settings.port, "request_timeout_s": None},
            logging_config=None if verbose else QUIET,
        )
        try:
            try:
                serve.run(app, name=APP, route_prefix="/")
            except RuntimeError as error:
                raise _refused(error, APP) from error
            yield f"http://{settings.host if settings.host != '0.0.0.0' else '127.0.0.1'}:{settings.port}"
        finally:
            # Lets requests in flight end. A Ray of our own ends with the session; one that was joined may serve others.
            serve.delete(APP)


def wait_for_stop() -> None:
    """Until Ctrl-C or SIGTERM."""
    stop = threading.Event()
    before = {s: signal.signal(s, lambda *_: stop.set()) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not stop.wait(1):
            pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
                refused = _refused(error, spec["app"])
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


def _refused(error: RuntimeError, app: str) -> Exception:
    """A replica's InputError, out of the tracebacks that Serve passes on as text; else the error itself."""
    from ray import serve

    status = serve.status().applications.get(app)
    texts = [str(error), *(d.message for d in status.deployments.values())] if status is not None else [str(error)]
    said = re.findall(r"InputError: (.+)", "\n".join(texts))
    return InputError(said[-1]) if said else error
