"""What a smaller vocabulary and fewer layers save: the same encoder whole and cut, in turn, medians.

    python benchmarks/smaller.py --encoder multilingual-e5-small --xquad DIR --rounds 3

Steps of 64 pairs of XQuAD-R, as a training makes them, each round in a process of its own: seconds and CPU seconds a
step, and the most memory that the process had.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
from pairs import in_turn, make_inputs, median

from hybrid_ir.encoders import keep_layers, load_encoder, quiet_libraries, save_encoder, trim_vocabulary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="multilingual-e5-small")
    parser.add_argument("--xquad", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.0)
    given = parser.parse_args()
    quiet_libraries()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        _, pairs, texts = make_inputs(given.xquad, work)
        lines = texts.read_text(encoding="utf-8").splitlines() + pq.read_table(pairs)["query"].to_pylist()
        words = ["--steps", str(given.steps), "--threads", str(given.threads), "--dropout", str(given.dropout)]
        timed_steps, commands = str(Path(__file__).with_name("timed_steps.py")), {}
        for name, layers, trimmed in (
            ("whole", None, False),
            ("vocabulary cut", None, True),
            ("and 6 layers", 6, True),
        ):
            model = load_encoder(given.encoder)
            if layers:
                keep_layers(model, layers)
            if trimmed:
                trim_vocabulary(model, lines)
            save_encoder(model, work / name)
            commands[name] = [sys.executable, timed_steps, str(work / name), str(pairs), *words]
        rounds = in_turn(commands, given.rounds, "steps")
    print(f"precision {rounds['whole'][0]['precision']}, {given.threads} threads, dropout {given.dropout:g}\n")
    print("| encoder | million parameters | s a step | CPU s a step | peak MB |\n|---|---|---|---|---|")
    for name, found in rounds.items():
        seconds, used, peak = (median(found, key) for key in ("seconds", "cpu_seconds", "peak_mb"))
        print(f"| {name} | {found[0]['parameters'] / 1e6:.1f} | {seconds:.2f} | {used:.2f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
