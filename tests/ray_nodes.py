"""Ray nodes of their own, started as a user starts them: several on one machine, each a raylet with its own resources."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def environment() -> dict[str, str]:
    """Without another test's Ray in it."""
    inherited = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    return inherited | {"RAY_AUTH_MODE": "token", "HF_HUB_OFFLINE": "1", "PATH": f"{BIN}:{os.environ['PATH']}"}


@contextmanager
def started(log: Path, *options: str) -> Iterator[None]:
    """A node, by `ray start` with these options."""
    command = [
        str(BIN / "ray"), "start", "--block", "--disable-usage-stats",
        # Its default is the same for every Ray of a machine, and an agent that cannot listen takes no job.
        f"--dashboard-agent-listen-port={free_port()}", *options,
    ]  # fmt: skip
    # --block, and not `ray stop` afterwards: that would also end the Ray of other tests.
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment())
    try:
        deadline = time.monotonic() + 120
        # One after the other: two that start at once may choose the same port.
        while "Ray runtime started" not in (said := log.read_text()):
            assert process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.2)
        yield
    finally:
        # At once: told to terminate, a node takes half a minute to drain.
        for each in (*psutil.Process(process.pid).children(recursive=True), process):
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait(timeout=60)
