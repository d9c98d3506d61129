"""What shorter vectors cost: encoders at several dimensions on a store's test split, each as `encoder shorten` cuts it.

    python benchmarks/shorter.py --store store --encoders plain=runs/a/checkpoint,runs/b/checkpoint

Encoders of one training with several seeds are given together, behind a name. `--encoders` may be repeated. Texts are
encoded once, and their vectors cut.

    python benchmarks/shorter.py --store store --encoder multilingual-e5-small --seeds 0,1,2 --picture shorter.png \
        train.steps=60 train.learning_rate=1e-4

This one measures the encoder as it is, and trains it here with each seed: on whole vectors, and with `loss.dimensions`,
those that are measured. Both have the same batches.

What was measured is kept in `--out`, so that the same command goes on where it was ended, and draws again when all is
there. It prints a table of means over the seeds, with half-widths of 95 % (Student's t). The picture has these means,
and what each language loses, a row of panels a name.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pictures import COLOURS, INK, dress, save
from short_trainings import decided_by, kept, mean_of, shown, trained

from hybrid_ir.config import Experiment, load_experiment, with_values
from hybrid_ir.data import Store, open_store
from hybrid_ir.encoders import encode, load_encoder, quiet_libraries
from hybrid_ir.evaluation import evaluate_collection
from hybrid_ir.measure_names import PRECISIONS, digits
from hybrid_ir.reports import drawing

SHOWN = ("AP_mono", "AP_multi")
"""What the picture has: AP within a language, and of its questions in the pool of all languages."""
WAYS = {"trained on whole vectors": False, "trained with loss.dimensions": True}

Found = dict[str, list[dict[str, Any]]]
"""Name -> what `measures` found of each of its encoders."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="store")
    parser.add_argument("--encoders", action="append", default=[], help="[NAME=]FOLDER,FOLDER,...")
    parser.add_argument("--encoder", help="one that is trained here")
    parser.add_argument("--seeds", default="0,1,2", help="of its trainings, separated by commas")
    parser.add_argument("--dimensions", default="256,128,64,32", help="beside whole vectors")
    parser.add_argument("--out", type=Path, default=Path("runs/shorter"), help="folder that keeps what was measured")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of the trainings")
    given = parser.parse_args()
    quiet_libraries()
    store, found = open_store(given.store), Found()
    dimensions = [int(value) for value in given.dimensions.split(",")]
    for name, of, make in [*of_folders(given), *of_trainings(given, store, dimensions)]:
        begun = time.perf_counter()

        of = {"name": name, "dimensions": dimensions, "store": store.content_hash, **of}
        make_measures = partial(measures, make, store, dimensions)
        found.setdefault(name, []).append(kept(given.out / "measured.jsonl", of, make_measures))
        print(f"{name}: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
        if given.picture:
            picture(found, given.picture)
    print(table(found))


def of_folders(given: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any], Callable[[], Any]]]:
    """Name, what to know it by, and how to get the encoder: those that are there."""
    named = [each.rpartition("=") for each in given.encoders]
    if given.encoder:
        named.insert(0, ("as released", "", given.encoder))
    for name, _, folders in named:
        for folder in folders.split(","):
            yield name or folders, {"encoder": folder}, partial(load_encoder, folder)


def of_trainings(
    given: argparse.Namespace, store: Store, dimensions: list[int]
) -> Iterator[tuple[str, dict[str, Any], Callable[[], Any]]]:
    """The same of those that are trained, all of one seed before the next one."""
    if given.encoder:
        words = [f"store={given.store}", f"encoder.name={given.encoder}", *given.overrides]
        for seed in map(int, given.seeds.split(",")):
            for name, shorter in WAYS.items():
                values = {"seed": seed, "loss.dimensions": dimensions if shorter else []}
                experiment = with_values(load_experiment(None, words), values)
                yield name, decided_by(experiment, store), partial(trained_model, experiment, store)


def trained_model(experiment: Experiment, store: Store) -> Any:
    return trained(experiment, store).model


def measures(make: Callable[[], Any], store: Store, dimensions: list[int]) -> dict[str, Any]:
    """Dimension -> what an encoder's vectors are worth when they are cut to it: means, and `per_language`."""
    model, test = make(), store.collection("test")
    whole = [
        encode(model, [q.text for q in test.queries], role="query"),
        encode(model, [c.text for c in test.candidates], role="document"),
    ]
    made = {}
    for dimension in (whole[0].shape[1], *dimensions):
        cut = [each[:, :dimension] for each in whole]
        unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in cut]
        summary = evaluate_collection(test.queries, test.candidates, *unit, resamples=0).summary
        made[str(dimension)] = {name: float(summary[name]) for name in (*PRECISIONS, "rank_distance")} | {
            "per_language": {
                language: {ap: float(summary["per_language"][language][ap]) for ap in SHOWN}
                for language in summary["languages"]
            }
        }
    return made


def table(found: Found) -> str:
    names = (*PRECISIONS, "rank_distance")
    lines = [f"| values of a vector | encoder | {' | '.join(names)} |", "|---" * (2 + len(names)) + "|"]
    for dimension in dimensions_of(found):
        for name, seeds in found.items():
            values = (shown([seed[dimension][each] for seed in seeds], digits(each)) for each in names)
            lines.append(f"| {dimension} | {name} | {' | '.join(values)} |")
    return "\n".join(lines)


def dimensions_of(found: Found) -> list[str]:
    return sorted(next(iter(found.values()))[0], key=int, reverse=True)


def picture(found: Found, path: Path) -> None:
    """AP by the dimension that is left, a line a name; and of each name, what each language loses against whole
    vectors. Bars are intervals over seeds."""
    import matplotlib.pyplot as plt

    dimensions = dimensions_of(found)
    with drawing():
        size = (7.6, 2.6 * (1 + len(found)))
        figure, grid = plt.subplots(1 + len(found), 2, figsize=size, squeeze=False, layout="constrained")
        for axes in grid[1:].flat:
            axes.sharey(grid[1, 0])
        for axes, ap in zip(grid[0], SHOWN, strict=True):
            for name, colour, style in zip(found, COLOURS, ("--", "-", "-", "-", "-", "-"), strict=False):
                line(axes, dimensions, [[seed[d][ap] for seed in found[name]] for d in dimensions], name, colour, style)
            spread(axes, dimensions)
            dress(axes, ap, "values of a vector", ap)
        grid[0, 0].legend(frameon=False, labelcolor=INK, loc="lower left")
        for (name, seeds), panels in zip(found.items(), grid[1:], strict=True):
            for axes, ap in zip(panels, SHOWN, strict=True):
                for i, language in enumerate(seeds[0][dimensions[0]]["per_language"]):
                    by_seed = [{d: seed[d]["per_language"][language][ap] for d in dimensions} for seed in seeds]
                    lost = [[values[dimensions[0]] - values[d] for values in by_seed] for d in dimensions]
                    style = ("-", "--")[i // len(COLOURS) % 2]
                    line(axes, dimensions, lost, language, COLOURS[i % len(COLOURS)], style)
                spread(axes, dimensions)
                dress(axes, name, "values of a vector", f"{ap} lost")
        lines = grid[1, 0].get_legend_handles_labels()
        figure.legend(*lines, loc="outside right center", frameon=False, labelcolor=INK)
        path.parent.mkdir(parents=True, exist_ok=True)
        save(figure, path)
        plt.close(figure)


def line(axes: Any, dimensions: list[str], values: list[list[float]], label: str, colour: str, style: str) -> None:
    """A line through the means of each dimension's values, with a bar for their interval."""
    means = [mean_of(each) for each in values]
    x = [int(dimension) for dimension in dimensions]
    kind = {"marker": "o", "markersize": 3, "linewidth": 1.2, "color": colour, "linestyle": style}
    axes.plot(x, [mean for mean, _ in means], label=label, **kind)
    if all(half is not None for _, half in means):
        axes.errorbar(
            x, [mean for mean, _ in means], [half for _, half in means], fmt="none", ecolor=colour, elinewidth=0.8,
            alpha=0.5,
        )  # fmt: skip


def spread(axes: Any, dimensions: list[str]) -> None:
    """Dimensions in powers, the whole vector's on the left."""
    axes.set_xscale("log")
    axes.set_xticks([int(dimension) for dimension in dimensions], dimensions)
    axes.minorticks_off()
    axes.invert_xaxis()


if __name__ == "__main__":
    main()
