"""What shorter vectors cost: encoders at several dimensions on a store's test split, each as `encoder shorten` cuts it.

    python benchmarks/shorter.py --store store --dimensions 192,96,48 --encoders runs/a/checkpoint,runs/b/checkpoint

Encoders of one training with several seeds are given together, behind a name: `--encoders plain=A,B,C`. It may be
repeated. Texts are encoded once, and their vectors cut. Prints a line of JSON a name and dimension: means over the
encoders, and half-widths of 95 % (Student's t).
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from scipy import stats

from hybrid_ir.data import open_store
from hybrid_ir.encoders import encode, load_encoder, quiet_libraries
from hybrid_ir.evaluation import evaluate_collection
from hybrid_ir.measure_names import PRECISIONS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="store")
    parser.add_argument("--encoders", action="append", required=True, help="[NAME=]FOLDER,FOLDER,...")
    parser.add_argument("--dimensions", type=lambda value: [int(v) for v in value.split(",")], required=True)
    given = parser.parse_args()
    quiet_libraries()
    test = open_store(given.store).collection("test")
    for named in given.encoders:
        name, _, folders = named.rpartition("=")
        found: dict[int, list[dict[str, float]]] = {}
        for folder in folders.split(","):
            model = load_encoder(folder)
            queries = encode(model, [q.text for q in test.queries], role="query")
            passages = encode(model, [c.text for c in test.candidates], role="document")
            for dimension in (queries.shape[1], *given.dimensions):
                cut = [each[:, :dimension] for each in (queries, passages)]
                unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in cut]
                summary = evaluate_collection(test.queries, test.candidates, *unit, resamples=0).summary
                found.setdefault(dimension, []).append({m: summary[m] for m in (*PRECISIONS, "rank_distance")})
        for dimension, rows in found.items():
            row: dict[str, object] = {"name": name or folders, "dimension": dimension, "encoders": len(rows)}
            for measure in rows[0]:
                values = [each[measure] for each in rows]
                row[measure] = round(float(np.mean(values)), 4)
                if len(values) > 1:
                    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
                    row[f"{measure}_half_width"] = round(float(half), 4)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
