"""What LoRA saves: steps of an encoder with all weights trained, and with adapters, in turn, medians.

    python benchmarks/lora.py --encoder FOLDER --xquad DIR --rounds 1

Steps of 64 pairs of XQuAD-R, as a training makes them, each round in a process of its own: seconds a step, and the most
memory that the process had. With dropout of the change, texts are padded and PEFT's own layers compute. What LoRA
brings is measured by `settings.py`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from pairs import in_turn, make_inputs, median

WAYS = {
    "all weights": [],
    "LoRA, rank 16": ["--lora-rank", "16"],
    "LoRA, rank 16, with dropout": ["--lora-rank", "16", "--lora-dropout", "0.1"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="multilingual-e5-small")
    parser.add_argument("--xquad", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        _, pairs, _ = make_inputs(given.xquad, Path(scratch))
        words = [sys.executable, str(Path(__file__).with_name("timed_steps.py")), given.encoder, str(pairs)]
        words += ["--steps", str(given.steps), "--threads", str(given.threads)]
        rounds = in_turn({way: [*words, *more] for way, more in WAYS.items()}, given.rounds, "steps")
    print("| trained | values | s a step | peak MB | precision |\n|---|---|---|---|---|")
    for way, found in rounds.items():
        seconds, peak = median(found, "seconds"), median(found, "peak_mb")
        print(f"| {way} | {found[0]['trained']:,} | {seconds:.2f} | {peak:.0f} | {found[0]['precision']} |")


if __name__ == "__main__":
    main()
