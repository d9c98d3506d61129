"""What a training loses when its processes are killed, and whether it still becomes what it would have been.

    python benchmarks/chaos_training.py --kills 20 --runs 4 --seed 0

A cluster of a head and two nodes, all on this machine; a training with a worker on each node and a data actor. At
seeded steps one of these is killed: a worker, the data actor, the actor that hands its batches out, Ray Train's
controller, or a whole node (another is started for it). Every run must have trained on the same batches as an unbroken
one, each once and in their order, and have the same weights, to the bit. Then one is trained by four workers, stopped,
goes on with two, is stopped, and goes on with four: its sums are made in another order.

A kill's seconds are those until a step is logged that was not done when it came. They hold what is started again (Ray's
processes, the imports of the workers, for a node the node too) and the steps since the last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from ray_nodes import free_port, kill_node, started
from training_store import make_store

PROCESSES = {
    "worker": "ray::RayTrainWorker",
    "data actor": "ray::MapWorker(MapBatches(BuildChunk))",
    "batch index": "ray::ChunkIndex",
    "controller": "ray::TrainController",
}
KINDS = (*PROCESSES, "node")
SETTINGS = [
    "encoder.vocabulary=600", "encoder.max_tokens=32", "batch.size=16", "train.learning_rate=1e-3",
    "train.evaluate_every=null", "train.precision=fp32", "train.feed=ray_data", "train.data_actors=1",
    "train.cpus_per_data_actor=0.2", "train.threads_per_worker=1", "train.trackers=[]", "train.max_failures=100",
    "train.checkpoint_every=20", "evaluate.bootstrap_rounds=0",
]  # fmt: skip
TWO = ["train.workers=2", "train.cpus_per_worker=0.6"]
"""Too much for one node: each has one."""
FOUR = ["train.workers=4", "train.cpus_per_worker=0.3"]


class Nodes:
    """A head and two nodes of a CPU each."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack, self._started = folder, stack, 0
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        head = ("--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false")
        self._head = stack.enter_context(started(folder / "head.log", *head))
        self._nodes = [self._start(), self._start()]

    def _start(self) -> Any:
        self._started += 1
        log = self._folder / f"node-{self._started}.log"
        return self._stack.enter_context(started(log, f"--address={self.address}", "--num-cpus=1"))

    def kill(self, kind: str, draw: random.Random) -> bool:
        """Kill one of a kind; whether there was one."""
        if kind == "node":
            number = draw.randrange(len(self._nodes))
            kill_node(self._nodes[number])
            self._nodes[number] = self._start()
            return True
        found = []
        for node in (self._head, *self._nodes):
            for each in psutil.Process(node.pid).children(recursive=True):
                try:
                    if each.cmdline()[:1] and each.cmdline()[0].startswith(PROCESSES[kind]):
                        found.append(each)
                except psutil.Error:
                    continue
        if not found:
            return False
        draw.choice(sorted(found, key=lambda each: each.pid)).kill()
        return True


class Killer:
    """Takes a training's rows. Kills what is due at a step, and notes how long it is until the next new step."""

    def __init__(self, nodes: Nodes, due: list[tuple[int, str]], draw: random.Random) -> None:
        self._nodes, self._due, self._draw = nodes, list(due), draw
        self._killed_at, self._reached = None, 0
        self.kills: list[dict[str, Any]] = []

    def __call__(self, row: dict[str, Any]) -> None:
        if "loss" not in row:
            return
        if self._killed_at is not None and row["step"] > self._reached:
            self.kills[-1]["seconds"] = round(time.monotonic() - self._killed_at, 1)
            print(json.dumps(self.kills[-1]), flush=True)
            self._killed_at = None
        self._reached = max(self._reached, row["step"])
        if self._killed_at is None and self._due and row["step"] >= self._due[0][0]:
            kind, at = self._due[0][1], time.monotonic()
            if self._nodes.kill(kind, self._draw):
                self._due.pop(0)
                self._killed_at = at
                self.kills.append({"kind": kind, "step": row["step"]})
            else:
                print(f"no {kind} was there at step {row['step']}", flush=True)


def stop_at(step: int) -> Any:
    """A reader of rows that sends this process SIGTERM at a step, as `ray job stop` does."""
    asked = []

    def read(row: dict[str, Any]) -> None:
        if "loss" in row and row["step"] >= step and not asked:
            asked.append(step)
            os.kill(os.getpid(), signal.SIGTERM)

    return read


def weights(run: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(run / "checkpoint" / "model.safetensors")


def difference(run: Path, unbroken: Path) -> dict[str, Any]:
    """Whether the batches are the same, and how far the weights are apart at most."""
    hashes = {json.loads((each / "metrics.json").read_text())["batches_hash"] for each in (run, unbroken)}
    ours, theirs = weights(run), weights(unbroken)
    furthest = max(float(np.abs(ours[name] - theirs[name]).max()) for name in theirs)
    return {"run": run.name, "same_batches": len(hashes) == 1, "weights_differ_by": furthest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--runs", type=int, default=4, help="the kills are spread over so many")
    parser.add_argument("--steps", type=int, default=1500, help="of each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resize", action=argparse.BooleanOptionalAction, default=True, help="four workers, two, four")
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    given = parser.parse_args()

    draw = random.Random(given.seed)
    due = []
    for run in range(given.runs):
        kinds = [KINDS[n % len(KINDS)] for n in range(run, given.kills, given.runs)]
        # It builds ahead, as far as the object store takes batches, and has left when it has built all: killed first.
        first = ["data actor"] * kinds.count("data actor")
        rest = [kind for kind in kinds if kind != "data actor"]
        draw.shuffle(rest)
        steps = sorted(draw.sample(range(given.steps // 10, given.steps * 9 // 10), len(rest)))
        due.append([*((1, kind) for kind in first), *zip(steps, rest, strict=True)])
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as scratch, ExitStack() as stack:
        folder = Path(scratch)
        make_store(folder / "store")
        nodes = Nodes(folder, stack)
        os.environ["RAY_ADDRESS"] = nodes.address

        from hybrid_ir.cluster import ray_session
        from hybrid_ir.config import load_experiment
        from hybrid_ir.encoders import quiet_libraries
        from hybrid_ir.training import train
        from hybrid_ir.types import Interrupted

        quiet_libraries()
        resources = stack.enter_context(ray_session(verbose=False))

        def trained(name: str, more: list[str], report: Any = lambda row: None) -> Path:
            own = [f"store={folder / 'store'}", f"out={folder / name}", f"train.steps={given.steps}"]
            train(load_experiment(None, [*SETTINGS, *own, *more]), resources, report)
            return folder / name

        begun = time.monotonic()
        unbroken = trained("unbroken", TWO)
        print(f"unbroken: {time.monotonic() - begun:.0f} s", flush=True)
        kills, compared = [], []
        for run, kills_due in enumerate(due):
            killer = Killer(nodes, kills_due, draw)
            compared.append(difference(trained(f"run-{run}", TWO, killer), unbroken))
            kills += killer.kills
            print(json.dumps(compared[-1]), flush=True)
        resized = None
        if given.resize:
            third = given.steps // 3
            for workers, stop in ((FOUR, third), (TWO, 2 * third), (FOUR, None)):
                try:
                    trained("resized", workers, stop_at(stop) if stop else lambda row: None)
                except Interrupted as stopped:
                    print(stopped, flush=True)
            resized = difference(folder / "resized", unbroken)
            print(json.dumps(resized), flush=True)

    by_kind = {
        kind: [each["seconds"] for each in kills if each["kind"] == kind and "seconds" in each] for kind in KINDS
    }
    figures = {
        "kills": len(kills),
        "median_seconds": {kind: statistics.median(values) for kind, values in by_kind.items() if values},
        "most_seconds": {kind: max(values) for kind, values in by_kind.items() if values},
        "runs": compared,
        "resized": resized,
    }
    print(json.dumps(figures, indent=2))
    if given.out:
        given.out.write_text(json.dumps({**figures, "each": kills}, indent=2) + "\n", encoding="utf-8")
    same = all(each["same_batches"] and each["weights_differ_by"] == 0 for each in compared)
    near = resized is None or (resized["same_batches"] and resized["weights_differ_by"] < 2e-3)
    sys.exit(0 if same and near and len(kills) == given.kills else 1)


if __name__ == "__main__":
    main()
