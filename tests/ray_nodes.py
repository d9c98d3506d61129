"""Ray nodes of their own, started as a user starts them: several on one machine, each a raylet with its own
resources.
"""

from __future__ import annotations

import json
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


def autoscaling(path: Path, port: int, *, node_cpus: int, most_nodes: int) -> dict[str, str]:
    """Write an autoscaler's config to `path`, of nodes that Ray's own fake provider starts on this machine, for a
    head on `port`. Returns what the head's environment needs."""
    config = {
        "cluster_name": "test", "max_workers": most_nodes, "idle_timeout_minutes": 5, "upscaling_speed": 1.0,
        "provider": {
            "type": "fake_multinode", "use_node_id_as_ip": True, "disable_node_updaters": True,
            "disable_launch_config_check": True, "gcs_address": f"127.0.0.1:{port}",
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "node": {"resources": {"CPU": node_cpus}, "node_config": {}, "min_workers": 0, "max_workers": most_nodes},
        },
        "head_node_type": "ray.head.default",
    }  # fmt: skip
    empty = ("setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray", "initialization")
    config |= {f"{name}_commands": [] for name in empty}
    config |= {"auth": {}, "head_node": {}, "worker_nodes": {}, "file_mounts": {}, "cluster_synced_files": []}
    config |= {"file_mounts_sync_continuously": False, "rsync_exclude": [], "rsync_filter": []}
    path.write_text(json.dumps(config))
    return {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}


@contextmanager
def started(log: Path, *options: str, **variables: str) -> Iterator[subprocess.Popen]:
    """A node, by `ray start` with these options and variables; the process that all of its others are children of."""
    command = [
        str(BIN / "ray"), "start", "--block", "--disable-usage-stats",
        # Its default is the same for every Ray of a machine, and an agent that cannot listen takes no job.
        f"--dashboard-agent-listen-port={free_port()}", *options,
    ]  # fmt: skip
    # --block, and not `ray stop` afterwards: that would also end the Ray of other tests.
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment() | variables)
    try:
        deadline = time.monotonic() + 120
        # One after the other: two that start at once may choose the same port.
        while "Ray runtime started" not in (said := log.read_text()):
            assert process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.2)
        yield process
    finally:
        # At once: told to terminate, a node takes half a minute to drain.
        kill_node(process)
        process.wait(timeout=60)


def kill_node(process: subprocess.Popen) -> None:
    """As when its machine loses power."""
    with suppress(psutil.NoSuchProcess):
        for each in (*psutil.Process(process.pid).children(recursive=True), process):
            with suppress(psutil.NoSuchProcess):
                each.kill()
