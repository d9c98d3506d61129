"""What the benchmarks share: a 7-million-parameter encoder, XQuAD-R's pairs as files, and A B A B runs with medians."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hybrid_ir.data.sources.lareqa import lareqa_collection, read_lareqa
from hybrid_ir.encoders.loading import load_encoder
from hybrid_ir.encoders.presets import create_encoder
from hybrid_ir.encoders.quiet import quiet_libraries
from hybrid_ir.types import Group


def make_inputs(xquad: Path, work: Path, seed: int = 0) -> tuple[Path, Path, Path]:
    """(model folder, pairs.parquet, texts.txt): 13,090 same-language pairs in a shuffled order, all 13,014
    sentences.
    """
    import random

    quiet_libraries()
    groups = [g for g in read_lareqa(xquad) if isinstance(g, Group)]
    pairs = [(g.queries[x], g.passages[x].text) for g in groups for x in sorted(g.queries)]
    random.Random(seed).shuffle(pairs)
    sentences = [" ".join(c.text.split()) for c in lareqa_collection(xquad, "xquad-r").candidates]
    work.mkdir(parents=True, exist_ok=True)
    table = pa.table({"query": [q for q, _ in pairs], "passage": [p for _, p in pairs]})
    pq.write_table(table, work / "pairs.parquet")
    (work / "texts.txt").write_text("\n".join(sentences), encoding="utf-8")
    model = work / "model"
    if not model.is_dir():
        create_encoder("mini", sentences, work / "initial", vocabulary=16000, max_tokens=256, seed=seed)
        load_encoder(str(work / "initial"), max_tokens=256).save(str(model), create_model_card=False)
    return model, work / "pairs.parquet", work / "texts.txt"


def run_json(command: list[str]) -> dict:
    """The JSON object that a command prints last."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def alternate(commands: dict[str, list[str]], key: str, rounds: int) -> dict[str, list[float]]:
    """Each command in turn, `rounds` times; the figure `key` of each run."""
    figures: dict[str, list[float]] = {name: [] for name in commands}
    for n in range(rounds):
        for name, command in commands.items():
            figures[name].append(run_json(command)[key])
            print(f"round {n + 1}: {name} {figures[name][-1]:.1f}", file=sys.stderr, flush=True)
    return figures


def print_table(figures: dict[str, list[float]], ours: str, unit: str) -> None:
    """Medians, spread, and how many times each peer ours is (median of the ratios round by round)."""
    print(f"| run | median {unit} | min | max | ours is |\n|---|---|---|---|---|")
    for name, values in figures.items():
        ratio = statistics.median(a / b for a, b in zip(figures[ours], values, strict=True))
        print(f"| {name} | {statistics.median(values):.1f} | {min(values):.1f} | {max(values):.1f} | {ratio:.2f}x |")
