"""Deploys, swaps and restarts of an app on a Ray that outlives it: what the operator said last is served."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import Any

import httpx
import pytest
import ray
from ray import serve
from services import CLI, environment, free_port, wait_until, write_releases

from hybrid_ir.config import Serve
from hybrid_ir.serving.ray_serve.deployments import ReleaseRoot, build_app
from hybrid_ir.serving.ray_serve.registry import NAMESPACE, REGISTRY

pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    return [str(folder) for folder in write_releases(tmp_path_factory.mktemp("releases"))]


@pytest.fixture(scope="module")
def url(ray_cluster):
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


@pytest.mark.parametrize("placement", [pytest.param("local", marks=pytest.mark.long), "distributed"])
def test_what_was_said_last_is_served_whatever_restarts(releases, url, placement):
    old, new = releases
    settings = Serve(placement=placement, cpus_per_replica=0.05, threads=1)
    # An app of somebody else, whose name begins as ours do.
    foreign: Any = serve.deployment(ReleaseRoot, name="f", ray_actor_options={"num_cpus": 0})
    serve.run(foreign.bind(), name="release-foreign", route_prefix=None)

    def stats() -> dict:
        return httpx.get(f"{url}/stats", trust_env=False, timeout=30).raise_for_status().json()

    def serves(index: str) -> bool:
        """Whether an answer is the index's own, and the gateway says that it is what it was told to serve."""
        asked = httpx.post(f"{url}/search", json={"query": "river", "k": 1}, trust_env=False, timeout=30)
        if asked.status_code != 200:
            return False
        said, label = stats(), asked.json()["results"][0]["hits"][0]["doc_id"].split("/")[0]
        return label == index.rsplit("/", 1)[1] and said["index"] == said["wanted_index"] == index

    def deploy(index: str) -> None:
        serve.run(build_app(index, settings), name="app", route_prefix="/")

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        address = ray.get_runtime_context().gcs_address
        return subprocess.run(
            [*CLI, *words], capture_output=True, text=True, env=environment(RAY_ADDRESS=address), timeout=200
        )

    def gateways() -> list[int]:
        """Processes of the gateways that run."""
        details = serve.context._get_global_client().get_serve_details()["applications"]["app"]["deployments"]
        return [each["pid"] for each in details["gateway"]["replicas"] if each["state"] == "RUNNING" and each["pid"]]

    def answers(registry: Any) -> bool:
        try:
            return ray.get(registry.state.remote("app"), timeout=5) is not None
        except ray.exceptions.RayError:
            return False

    deploy(old)
    wait_until(lambda: serves(old))
    deploy(new)  # before: ignored (local), or a gateway that never came up (distributed)
    wait_until(lambda: serves(new))
    swapped = command("swap", "--index", old, "serve.cpus_per_replica=0.05", "serve.threads=1")
    assert swapped.returncode == 0, swapped.stdout + swapped.stderr
    assert "1 gateway serves" in swapped.stdout
    assert serves(old)  # and not a moment later
    same = command("swap", "--index", old)
    assert same.returncode == 2
    assert "is what is served already" in same.stderr
    # The registry is killed, and then the gateway: neither brings back what was deployed.
    registry = ray.get_actor(REGISTRY, namespace=NAMESPACE)
    ray.kill(registry, no_restart=False)
    wait_until(lambda: answers(registry))
    time.sleep(1.5)  # a gateway asks a registry that was gone after a second
    assert serves(old)
    killed = gateways()
    os.kill(*killed, signal.SIGKILL)
    wait_until(lambda: gateways() and gateways() != killed, 120)  # it loads torch, on a busy machine
    wait_until(lambda: serves(old), 120)
    back = command("rollback")
    assert back.returncode == 0, back.stdout + back.stderr
    assert serves(new)
    # Deployed again after it was deleted: what is deployed is served. Serve apps of others were left alone.
    serve.delete("app")
    deploy(old)
    wait_until(lambda: serves(old))
    names = set(serve.status().applications)
    wait_until(lambda: set(serve.status().applications) == {"app", "release-foreign"}, 60)
    assert "release-foreign" in names
    serve.delete("app")
