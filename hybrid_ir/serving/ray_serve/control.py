"""Starting and stopping the service from the command line.

In: an index folder and settings. Out: a service at an address, of which nothing is left afterwards. No torch here, and
no Ray until its environment is set.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import psutil

from hybrid_ir.cluster import live_nodes, ray_session
from hybrid_ir.config import Serve
from hybrid_ir.index import check_files, read_manifest
from hybrid_ir.serving.checks import decoder_of
from hybrid_ir.serving.ray_serve import request_ids
from hybrid_ir.serving.ray_serve.machine_ports import own_ports, refuse_used_port
from hybrid_ir.serving.tracing.exporting import exporters
from hybrid_ir.types import InputError, one_line

APP = "hybrid-ir"
LOST_S = 60
"""The controller of a Ray that was joined is silent for so long only if that is gone. Our own Ray is seen to end."""
ENDING_S = 30
"""Longest that a Ray which is gone may hold up the end."""


class ServiceLost(Exception):
    """Ray, or Serve's HTTP proxy, ended under the service."""


@contextmanager
def running(index: str, settings: Serve, *, checkpoint: str | None = None, verbose: bool = False) -> Iterator[str]:
    """Serve the index until the block ends; yields the address. Starts a Ray of its own unless RAY_ADDRESS names one.

    Raises InputError for what cannot be served: a port in use, a public interface without keys, a damaged index, an
    encoder of another space.
    """
    refuse_used_port(settings.host, settings.port)
    # What a glance shows is refused before anything starts; checksums and the encoder are the replicas' to check.
    manifest = read_manifest(index)
    check_files(index, manifest.every_file, checksums=False)
    if checkpoint is not None and not Path(checkpoint).is_dir():
        raise InputError(f"no encoder at {checkpoint}; leave --checkpoint out to use the index's own")
    decoder_of(settings.token_ids)
    if settings.traces:
        exporters()
    joined = bool(os.environ.get("RAY_ADDRESS"))
    ports = nullcontext({}) if joined else own_ports()  # a cluster has its ports from where it was started
    # Not shielded: Serve tells the proxies that it starts to leave by SIGTERM.
    with ports as own, _environment(own), ray_session(verbose, shielded=False):
        from ray import serve
        from ray.exceptions import RayActorError

        if not verbose:
            logging.getLogger("ray.serve").setLevel(logging.ERROR)

        from hybrid_ir.serving.ray_serve.deployments import api_keys, build_app, quiet
        from hybrid_ir.serving.ray_serve.gateway import check_public, check_rate_limit
        from hybrid_ir.serving.ray_serve.registry import registry
        from hybrid_ir.serving.ray_serve.swapping import let_finish

        check_public(settings.host, settings, api_keys(settings))
        check_rate_limit(settings, api_keys(settings))
        app = build_app(index, settings, checkpoint)
        ray_processes, served = _own_ray(), False
        try:
            try:
                with _watched(ray_processes):
                    serve.start(
                        http_options={"host": settings.host, "port": settings.port, "request_timeout_s": None},
                        logging_config={**quiet(settings), **({"log_level": "INFO"} if verbose else {})},
                    )
                    serve.run(app, name=APP, route_prefix="/")
            except RayActorError as error:
                refuse_used_port(settings.host, settings.port)  # taken since we looked
                raise ServiceLost(f"the HTTP proxy of Ray Serve did not start: {one_line(error)}") from error
            except TimeoutError as error:  # Serve waits a minute, which a machine that does much else may need
                late = one_line(error).rstrip(".")
                raise ServiceLost(f"Ray Serve did not start in time, as on a busy machine: {late}") from error
            except RuntimeError as error:
                raise refusal(error, APP) from error
            served = True
            with _watched(ray_processes):
                yield f"http://{settings.host if settings.host != '0.0.0.0' else '127.0.0.1'}:{settings.port}"
        finally:
            # A Ray of our own ends with the session; one that was joined may serve others. One that is gone, perhaps by
            # a SIGTERM to all of us, is told nothing.
            deadline_s = settings.deadline_ms / 1000
            if served and not _ended(ray_processes):
                _within(deadline_s + ENDING_S, lambda: let_finish(APP, registry(), deadline_s))
            if joined and not _ended(ray_processes):
                _within(ENDING_S, lambda: serve.delete(APP))
            elif served and settings.traces and not _ended(ray_processes):
                _within(ENDING_S, serve.shutdown)  # replicas that are killed with their Ray send no more spans


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


def refusal(error: RuntimeError, app: str) -> Exception:
    """A replica's InputError, out of the tracebacks that Serve passes on as text; else the error itself."""
    from ray import serve

    status = serve.status().applications.get(app)
    texts = [str(error), *(d.message for d in status.deployments.values())] if status is not None else [str(error)]
    said = re.findall(r"InputError: (.+)", "\n".join(texts))
    return InputError(said[-1]) if said else error


def _own_ray() -> list[psutil.Process]:
    """The two processes of a Ray that this one started, without which there is none; nothing if it joined one."""
    return [each for each in psutil.Process().children() if each.name() in ("gcs_server", "raylet")]


def _ended(processes: Sequence[psutil.Process]) -> bool:
    return any(not each.is_running() or each.status() == psutil.STATUS_ZOMBIE for each in processes)


@contextmanager
def _watched(ray_processes: Sequence[psutil.Process]) -> Iterator[None]:
    """Raises ServiceLost, in the block, once Ray has ended: its processes, or what was joined is silent for `LOST_S`.

    Whoever waits for a Ray that is gone waits for ever, so the block is interrupted as by Ctrl-C. That and SIGTERM are
    heard also in a process that a script started in the background, where they are ignored.
    """
    ended, lost = threading.Event(), threading.Event()
    answered = [time.monotonic()]

    def ask() -> None:
        from ray import serve

        while not ended.wait(2):
            try:
                alive = live_nodes()
                serve.status()
            except Exception:  # whatever it is, it was no answer
                continue
            if alive:
                answered[0] = time.monotonic()

    def watch() -> None:
        while not ended.wait(1):
            silent = not ray_processes and time.monotonic() - answered[0] > LOST_S
            if silent or _ended(ray_processes):
                lost.set()
                return os.kill(os.getpid(), signal.SIGINT)

    before = {s: signal.signal(s, signal.default_int_handler) for s in (signal.SIGINT, signal.SIGTERM)}
    threads = [threading.Thread(target=each, daemon=True) for each in ((watch,) if ray_processes else (watch, ask))]
    for thread in threads:
        thread.start()
    try:
        yield
    except KeyboardInterrupt:
        if not lost.is_set():
            raise
    finally:
        ended.set()
        for number, handler in before.items():
            signal.signal(number, handler)
        for thread in threads:  # who asks a Ray that this process has left ends the process
            thread.join(10)
    if lost.is_set():
        raise ServiceLost("Ray, which the service runs on, has ended")


def _within(seconds: float, function: Callable[[], object]) -> None:
    """Call it, and go on after so long at the latest: what is asked of a Ray that is gone never returns."""
    thread = threading.Thread(target=_quietly, args=(function,), daemon=True)
    thread.start()
    thread.join(seconds)


def _quietly(function: Callable[[], object]) -> None:
    try:
        function()
    except Exception as error:
        logging.getLogger(__name__).debug("while ending: %s", error)


@contextmanager
def _environment(ports: dict[str, str]) -> Iterator[None]:
    """What Ray Serve reads when it is imported, here and in its own processes. What the user has set stays."""
    wanted = {
        # HTTP goes straight to the gateway, and replicas' calls are cheaper (measured by benchmarks/serve.py).
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1" if sys.platform == "linux" else "0",
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # Its default is 5 s: on a busy machine the proxy, which was about to be ready, is killed.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        # A gateway that is told to leave ends when its requests have, not half a minute later.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        # A line is in its file when it is logged, not when a thousand are: few are.
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": request_ids.CALLBACK,
        **ports,
    }
    ours = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)
