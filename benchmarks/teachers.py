"""What a teacher, or alignment, brings under each mix: short trainings in this process, measured on a store's test.

    python benchmarks/teachers.py --store store/taught --encoder intfloat/multilingual-e5-small --layers 4 \
        --mixes monolingual,hybrid --losses "" --losses loss.teacher=kl train.steps=60 train.learning_rate=1e-4

`--losses` are settings of one training, separated by spaces, and may be repeated. Trainings with one mix and one seed
have the same batches, whatever they learn from. Prints a line of JSON for each as soon as it is measured, the first for
the encoder before training.
"""

from __future__ import annotations

import argparse
import json
import time

import torch

from hybrid_ir.batches import builder_for, in_process_feed, plan_for
from hybrid_ir.config import Experiment, load_experiment, with_values
from hybrid_ir.data import open_store
from hybrid_ir.encoders import Embedder, TextReader, encode, freeze_unused, keep_layers, quiet_libraries
from hybrid_ir.evaluation import evaluate_collection
from hybrid_ir.measure_names import PRECISIONS
from hybrid_ir.training.checkpoint import load_model
from hybrid_ir.training.losses.settings import LossSettings
from hybrid_ir.training.step import backward, learning_rate_at, make_optimizer, update


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--mixes", default="monolingual,hybrid")
    parser.add_argument("--losses", action="append", required=True)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    given = parser.parse_args()
    quiet_libraries()
    store = open_store(given.store)
    test = store.collection("test")
    measured_before = False
    for seed in map(int, given.seeds.split(",")):
        for mix in given.mixes.split(","):
            for losses in given.losses:
                words = [*given.overrides, f"store={given.store}", f"encoder.name={given.encoder}", f"seed={seed}"]
                experiment = with_values(load_experiment(None, [*words, *losses.split()]), {"recipe": mix})
                model = load_model(experiment, given.encoder, torch.device("cpu"))
                if given.layers:
                    keep_layers(model, given.layers)
                if not measured_before:
                    print(json.dumps({"training": "none", **measures(model, test)}), flush=True)
                    measured_before = True
                begun = time.perf_counter()
                loss = trained(model, experiment, store)
                row = {"mix": mix, "losses": losses, "seed": seed, "loss": round(loss, 4)}
                row["seconds"] = round(time.perf_counter() - begun)
                print(json.dumps({**row, **measures(model, test)}), flush=True)


def trained(model, experiment: Experiment, store) -> float:
    """The loss of the last step."""
    settings, loss = experiment.train, 0.0
    builder = builder_for(experiment, store, plan_for(store, experiment), TextReader.of(model))
    embedder = Embedder(model, precision=settings.precision, micro_batch_tokens=settings.micro_batch_tokens)
    freeze_unused(embedder)
    embedder.train()
    optimizer = make_optimizer(embedder, settings.learning_rate, settings.weight_decay)
    for step, batch in enumerate(in_process_feed(builder, 0, settings.steps)):
        loss = float(backward(embedder, batch, LossSettings(**experiment.loss.model_dump()), 0, 1))
        rate = learning_rate_at(
            step, peak=settings.learning_rate, warmup_steps=settings.warmup_steps, steps=settings.steps
        )
        update(optimizer, embedder, rate, settings.gradient_clip)
    return loss


def measures(model, test) -> dict[str, float]:
    queries = encode(model, [q.text for q in test.queries], role="query")
    passages = encode(model, [c.text for c in test.candidates], role="document")
    summary = evaluate_collection(test.queries, test.candidates, queries, passages, resamples=0).summary
    return {name: round(float(summary[name]), 4) for name in (*PRECISIONS, "R@10_multi", "rank_distance")}


if __name__ == "__main__":
    main()
