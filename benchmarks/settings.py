"""What a setting brings under each mix: short trainings in this process, measured on a store's test split.

    python benchmarks/settings.py --store store/taught --encoder intfloat/multilingual-e5-small --seeds 0,1,2 \
        --mixes monolingual,hybrid --row "" --row loss.teacher=kl train.steps=60 train.learning_rate=1e-4

`--row` has the settings of one training, separated by spaces, and may be repeated: a teacher, alignment, LoRA. All
trainings with one mix and one seed have the same batches, whatever they learn from. Prints a line of JSON for each as
soon as it is measured, the first for the encoder before training, and at the end a table of means over the seeds, with
half-widths of 95 % (Student's t).

What was measured is kept in `--out`, so that the same command goes on where it was ended.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from short_trainings import begun, decided_by, kept, shown, trained

from hybrid_ir.config import load_experiment, with_values
from hybrid_ir.data import Store, open_store
from hybrid_ir.encoders import encode, quiet_libraries
from hybrid_ir.evaluation import evaluate_collection
from hybrid_ir.measure_names import PRECISIONS, digits
from hybrid_ir.training.checkpoint import State

SHOWN = (*PRECISIONS, "R@10_multi", "rank_distance")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--mixes", default="monolingual,hybrid")
    parser.add_argument("--row", action="append", required=True, metavar="'KEY=VALUE ...'")
    parser.add_argument("--seeds", default="0", help="separated by commas")
    parser.add_argument("--out", type=Path, default=Path("runs/settings"), help="folder that keeps what was measured")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of all trainings")
    given = parser.parse_args()
    quiet_libraries()
    store, found = open_store(given.store), defaultdict(list)

    def add(row: str, mix: str, of: dict[str, Any], make: Callable[[], State]) -> None:
        measured = kept(given.out / "measured.jsonl", of, partial(measures, make, store))
        found[row, mix].append(measured)
        print(json.dumps({"settings": row, "mix": mix, "seed": of.get("seed"), **measured}), flush=True)

    words = [*given.overrides, f"store={given.store}", f"encoder.name={given.encoder}"]
    before = load_experiment(None, words)
    add("not trained", "", {"before": decided_by(before, store)}, partial(begun, before, store))
    for seed in map(int, given.seeds.split(",")):
        for mix in given.mixes.split(","):
            for row in given.row:
                experiment = with_values(load_experiment(None, [*words, f"seed={seed}", *row.split()]), {"recipe": mix})
                add(row or "as they are", mix, decided_by(experiment, store), partial(trained, experiment, store))
    print(f"\n| settings | batches | {' | '.join(SHOWN)} |\n{'|---' * (2 + len(SHOWN))}|")
    for (row, mix), measured in found.items():
        print(f"| {row} | {mix} | {' | '.join(cells(measured))} |")


def measures(make: Callable[[], State], store: Store) -> dict[str, Any]:
    begun_at = time.perf_counter()
    state = make()
    seconds = time.perf_counter() - begun_at
    test = store.collection("test")
    queries = encode(state.model, [q.text for q in test.queries], role="query")
    passages = encode(state.model, [c.text for c in test.candidates], role="document")
    summary = evaluate_collection(test.queries, test.candidates, queries, passages, resamples=0).summary
    made = {name: round(float(summary[name]), 5) for name in SHOWN}
    return {**made, "loss": state.progress.loss, "seconds": round(seconds)}


def cells(measured: Sequence[dict[str, Any]]) -> list[str]:
    return [shown([each[name] for each in measured], digits(name)) for name in SHOWN]


if __name__ == "__main__":
    main()
