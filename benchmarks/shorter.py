"""What shorter vectors cost: encoders at several dimensions on a store's test split, each as `encoder shorten` cuts it.

    python benchmarks/shorter.py --store store --dimensions 192,96,48 --encoders runs/a/checkpoint,runs/b/checkpoint

Encoders of one training with several seeds are given together, behind a name: `--encoders plain=A,B,C`. It may be
repeated. Texts are encoded once, and their vectors cut. Prints a line of JSON a name and dimension: means over the
encoders, half-widths of 95 % (Student's t), and two kinds of AP by language.

`--picture shorter.png` draws what each language loses, a panel a name; `--draw FILE` draws from printed lines.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from pictures import COLOURS, INK, dress, save
from scipy import stats

from hybrid_ir.data import open_store
from hybrid_ir.encoders import encode, load_encoder, quiet_libraries
from hybrid_ir.evaluation import evaluate_collection
from hybrid_ir.measure_names import PRECISIONS
from hybrid_ir.reports import drawing

SHOWN = ("AP_mono", "AP_multi")
"""What the picture has by language: within it, and of its questions in the pool of all languages."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="store")
    parser.add_argument("--encoders", action="append", default=[], help="[NAME=]FOLDER,FOLDER,...")
    parser.add_argument("--dimensions", type=lambda value: [int(v) for v in value.split(",")], default=[])
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--draw", type=Path, help="lines that were printed before; nothing is measured")
    given = parser.parse_args()
    if given.draw:
        made = [json.loads(line) for line in given.draw.read_text(encoding="utf-8").splitlines()]
    else:
        made = measure(given.store, given.encoders, given.dimensions)
    if given.picture:
        picture(made, given.picture)


def measure(store: str, encoders: list[str], dimensions: list[int]) -> list[dict[str, Any]]:
    """The lines that are printed."""
    quiet_libraries()
    made = []
    test = open_store(store).collection("test")
    for named in encoders:
        name, _, folders = named.rpartition("=")
        found: dict[int, list[dict[str, Any]]] = {}
        for folder in folders.split(","):
            model = load_encoder(folder)
            queries = encode(model, [q.text for q in test.queries], role="query")
            passages = encode(model, [c.text for c in test.candidates], role="document")
            for dimension in (queries.shape[1], *dimensions):
                cut = [each[:, :dimension] for each in (queries, passages)]
                unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in cut]
                found.setdefault(dimension, []).append(
                    evaluate_collection(test.queries, test.candidates, *unit, resamples=0).summary
                )
        for dimension, summaries in found.items():
            row: dict[str, Any] = {"name": name or folders, "dimension": dimension, "encoders": len(summaries)}
            for measured in (*PRECISIONS, "rank_distance"):
                values = [summary[measured] for summary in summaries]
                row[measured] = round(float(np.mean(values)), 4)
                if len(values) > 1:
                    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
                    row[f"{measured}_half_width"] = round(float(half), 4)
            row["per_language"] = {language: mean_of(summaries, language) for language in summaries[0]["languages"]}
            print(json.dumps(row), flush=True)
            made.append(row)
    return made


def mean_of(summaries: list[dict[str, Any]], language: str) -> dict[str, float]:
    rows = [summary["per_language"][language] for summary in summaries]
    return {ap: round(float(np.mean([row[ap] for row in rows])), 4) for ap in SHOWN}


def picture(made: list[dict[str, Any]], path: Path) -> None:
    """AP lost against whole vectors, by the dimension that is left: a line a language, a row of panels a name."""
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(row["name"] for row in made))
    with drawing():
        size = (7.6, 2.9 * len(names))
        figure, grid = plt.subplots(len(names), 2, figsize=size, sharey="col", squeeze=False, layout="constrained")
        for name, panels in zip(names, grid, strict=True):
            rows = sorted((row for row in made if row["name"] == name), key=lambda row: -row["dimension"])
            left = [row["dimension"] for row in rows]
            for axes, ap in zip(panels, SHOWN, strict=True):
                for i, language in enumerate(rows[0]["per_language"]):
                    values = [row["per_language"][language][ap] for row in rows]
                    lost = [values[0] - value for value in values]
                    style = {"color": COLOURS[i % len(COLOURS)], "linestyle": ("-", "--")[i // len(COLOURS) % 2]}
                    axes.plot(left, lost, marker="o", markersize=3, linewidth=1.2, label=language, **style)
                axes.set_xscale("log")
                axes.set_xticks(left, [str(dimension) for dimension in left])
                axes.minorticks_off()
                axes.invert_xaxis()
                dress(axes, name, "values of a vector", f"{ap} lost")
        lines = grid[0, 0].get_legend_handles_labels()
        figure.legend(*lines, loc="outside right center", frameon=False, labelcolor=INK)
        save(figure, path)


if __name__ == "__main__":
    main()
