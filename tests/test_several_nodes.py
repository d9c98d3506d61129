"""Several nodes, which a cluster's autoscaler brings: a training by jobs, and a service whose shards they hold."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from indices import sample_passages, write_served_index
from ray_nodes import BIN, autoscaling, environment, free_port, started
from safetensors.numpy import load_file
from training_runs import OVERRIDES, STEPS, Plain, experiment
from training_store import make_reader, make_store

from hybrid_ir.client import SearchClient
from hybrid_ir.data.store import open_store

pytestmark = [pytest.mark.slow, pytest.mark.alone]

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def growing_cluster(tmp_path_factory):
    """A head that computes nothing, whose autoscaler may start four nodes of a CPU each; the dashboard's address."""
    folder = tmp_path_factory.mktemp("cluster")
    port, dashboard = free_port(), free_port()
    variables = autoscaling(folder / "autoscaling.json", port, node_cpus=1, most_nodes=4)
    head = (f"--port={port}", "--num-cpus=0", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}")
    variables |= {"RAY_JOB_STOP_WAIT_TIME_S": "120"}
    autoscale = f"--autoscaling-config={folder / 'autoscaling.json'}"
    with started(folder / "head.log", "--head", *head, autoscale, **variables):
        yield f"http://127.0.0.1:{dashboard}"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """One of Ray's own commands."""
    whole = [str(BIN / command[0]), *command[1:]]
    return subprocess.run(whole, capture_output=True, text=True, env=environment(), timeout=600)


def submit(dashboard: str, *words: str) -> subprocess.CompletedProcess[str]:
    """`ray job submit` from the configs' folder, again while there is no agent to take a job."""
    deadline = time.monotonic() + 180
    while True:
        folder = str(ROOT / "tune_configs")
        done = run("ray", "job", "submit", "--address", dashboard, "--working-dir", folder, *words)
        if "submitted successfully" in done.stdout + done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(2)


def losses(run: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def test_jobs_train_on_nodes_that_come_are_stopped_and_go_on_and_a_bad_one_says_why(tmp_path, growing_cluster):
    """Stopped on two workers and resumed on three, which no node holds, with a data actor: losses, ledger and
    weights are those of the plain loop."""
    store, initial, out = tmp_path / "store", tmp_path / "initial", tmp_path / "run"
    make_store(store)
    make_reader(open_store(str(store)), initial)
    settings = [*OVERRIDES, f"store={store}", f"out={out}", f"encoder.name={initial}"]
    train = ["--", "hybrid-ir", "train", *settings, "train.feed=ray_data", "train.data_actors=1"]
    two = ["train.workers=2", "train.cpus_per_worker=0.6", "--wait-for-nodes=300"]
    first = submit(growing_cluster, "--submission-id=first", "--no-wait", *train, *two)
    assert first.returncode == 0, first.stdout + first.stderr
    deadline = time.monotonic() + 300
    # The first of six validations: a checkpoint is there, and most steps are to come.
    while not (out / "log.jsonl").is_file() or "AP_mono" not in (out / "log.jsonl").read_text():
        assert time.monotonic() < deadline, run("ray", "job", "logs", "--address", growing_cluster, "first").stdout
        time.sleep(0.05)
    run("ray", "job", "stop", "--address", growing_cluster, "first")
    said = run("ray", "job", "logs", "--address", growing_cluster, "first").stdout
    assert "waiting up to 300 s for nodes: training needs 1.3 CPUs" in said
    stopped = json.loads((out / "manifest.json").read_text())
    assert stopped["state"] == "stopped"
    assert 0 < stopped["steps"] < STEPS
    assert f"stopped after step {stopped['steps']}" in said

    again = submit(growing_cluster, *train, "train.workers=3")
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert f"run written to {out}" in again.stdout

    plain = Plain(experiment(store, out), initial)
    logged = losses(out)
    assert min(logged) <= stopped["steps"] < max(logged) == STEPS
    for step, loss in logged.items():  # sums in another order
        assert loss == pytest.approx(plain.losses[step - 1], rel=2e-3), step
    ledger = json.loads((out / "ledger.json").read_text())
    assert {kind: row["batches"] for kind, row in ledger["kinds"].items()} == plain.batches
    rows = {(kind, pair): row["rows"] for kind, pairs in ledger["pairs"].items() for pair, row in pairs.items()}
    assert {key: n for key, n in rows.items() if n} == plain.rows
    best = plain.weights[json.loads((out / "metrics.json").read_text())["best_step"]]
    for name, value in load_file(out / "checkpoint" / "model.safetensors").items():
        np.testing.assert_allclose(value, best[name], atol=2e-3, err_msg=name)

    bad = submit(growing_cluster, *train, "batch.alpah=0.5")
    assert bad.returncode == 1
    assert "did you mean 'batch.alpha'" in bad.stdout
    assert "failed with exit code 2" in bad.stdout + bad.stderr


def test_a_service_brings_nodes_for_its_shards_and_searches_all_of_them(tmp_path, growing_cluster):
    """Gateway, encoder and two shards want 0.6 of a CPU each, so each has a node of its own."""
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

    passages = sample_passages(90)
    write_served_index(tmp_path / "index", passages)
    port = free_port()
    arguments = {"index": str(tmp_path / "index"), "placement": "distributed", "cpus_per_replica": 0.6}
    application = {"name": "hybrid-ir", "route_prefix": "/", "import_path": "serve_app:app", "args": arguments}
    http = {"host": "127.0.0.1", "port": port}
    config = {"proxy_location": "HeadOnly", "http_options": http, "applications": [application]}
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(config))
    deployed = run("serve", "deploy", "--address", growing_cluster, str(tmp_path / "serve.yaml"))
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr

    serve = ServeSubmissionClient(growing_cluster)
    deadline = time.monotonic() + 300
    while (running := serve.get_serve_details()["applications"]["hybrid-ir"])["status"] != "RUNNING":
        assert running["status"] == "DEPLOYING", running["message"]
        assert time.monotonic() < deadline, running
        time.sleep(1)
    replicas = [replica for each in running["deployments"].values() for replica in each["replicas"]]
    assert len(replicas) == len({replica["node_id"] for replica in replicas}) == 4

    with SearchClient(f"http://127.0.0.1:{port}") as client:
        answer = client.search("river number 7", k=100)
    assert answer["coverage"]["complete"]
    assert answer["coverage"]["shards"] == 2
    assert len(answer["results"][0]["hits"]) == len(passages)
