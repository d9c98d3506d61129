"""How long one waits for a command: for its help, a training's first step, and a service's first answer.

    python benchmarks/start_up.py --encoder FOLDER --index INDEX

Each command is started anew, in turn, and figures are medians of all rounds. Beside them stands what none of them can
do without: starting Python and importing the libraries, and starting Ray and a process of it. The last line has the
figures as JSON, in seconds. Run it twice on a new machine, where the first run reads everything from the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from serve import wait_for_answer

CLI = [sys.executable, "-m", "hybrid_ir.cli"]
CONFIG = Path(__file__).parent.parent / "tune_configs" / "quickstart.yaml"
PORT = 8902
RAY = """
import ray
ray.init(address="local", include_dashboard=False, log_to_driver=False)
ray.get(ray.remote(lambda: 1).remote())
"""
LIBRARIES = "import sentence_transformers"


def seconds_of(command: list[str]) -> float:
    """From the command to its end."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def first_step(encoder: str, store: Path, root: Path) -> float:
    """From the command to the line that says that the first step was made."""
    settings = [f"store={store}", f"encoder.name={encoder}", "encoder.trim_vocabulary=false", "train.steps=2"]
    with tempfile.TemporaryDirectory(dir=root) as run:
        command = [*CLI, "train", "--config", str(CONFIG), *settings, "train.warmup_steps=0", f"out={run}/run"]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        said, waited = [], None
        for line in process.stdout:
            said.append(line)
            if waited is None and "step 1/" in line:
                waited = time.perf_counter() - start
        if process.wait() or waited is None:
            sys.exit(f"the training said no first step:\n{''.join(said)}")
        return waited


def first_answer(index: Path, placement: str) -> float:
    """From the command to the answer to a query."""
    command = [*CLI, "serve", "--index", str(index), f"serve.port={PORT}", f"serve.placement={placement}"]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_answer(f"http://127.0.0.1:{PORT}", process)
        return time.perf_counter() - start
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, help="folder of the encoder that is trained")
    parser.add_argument("--index", type=Path, required=True, help="folder of the index that is served")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store = root / "store"
        subprocess.run(
            [*CLI, "prepare", "--config", str(CONFIG), f"store={store}"], check=True, stdout=subprocess.DEVNULL
        )
        waits: dict[str, Callable[[], float]] = {
            "Python and the libraries": lambda: seconds_of([sys.executable, "-c", LIBRARIES]),
            "Ray and one task": lambda: seconds_of([sys.executable, "-c", RAY]),
            "hybrid-ir --help": lambda: seconds_of([*CLI, "--help"]),
            "hybrid-ir train, to the first step": lambda: first_step(given.encoder, store, root),
            "hybrid-ir serve, local, to the first answer": lambda: first_answer(given.index, "local"),
            "hybrid-ir serve, distributed, to the first answer": lambda: first_answer(given.index, "distributed"),
        }
        times: dict[str, list[float]] = {name: [] for name in waits}
        for number in range(given.rounds):
            for name, wait in waits.items():
                times[name].append(wait())
                print(f"round {number + 1}: {name} {times[name][-1]:.1f} s", file=sys.stderr, flush=True)
    print(json.dumps({name: statistics.median(several) for name, several in times.items()}))


if __name__ == "__main__":
    main()
