"""What the benchmarks share: encoders, XQuAD-R's pairs as files, and commands that print JSON."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hybrid_ir.data.sources.lareqa import lareqa_collection, read_lareqa
from hybrid_ir.encoders.derived.vocabulary import trim_vocabulary
from hybrid_ir.encoders.loading import load_encoder
from hybrid_ir.encoders.presets import create_encoder
from hybrid_ir.encoders.quiet import quiet_libraries
from hybrid_ir.types import Group


def make_inputs(xquad: Path, work: Path, seed: int = 0, encoder: str = "mini") -> tuple[Path, Path, Path]:
    """(model folder, pairs.parquet, texts.txt): 13,090 same-language pairs in a shuffled order, all 13,014
    sentences.

    `encoder`: mini, with 7 million parameters, from scratch; whole, multilingual-e5-small with its 250 thousand
    pieces; cut, the same with the pieces of these texts.
    """
    import random

    quiet_libraries()
    groups = [g for g in read_lareqa(xquad) if isinstance(g, Group)]
    pairs = [(g.queries[x], g.passages[x][0].text) for g in groups for x in sorted(g.queries)]
    random.Random(seed).shuffle(pairs)
    sentences = [" ".join(c.text.split()) for c in lareqa_collection(xquad, "xquad-r").candidates]
    work.mkdir(parents=True, exist_ok=True)
    table = pa.table({"query": [q for q, _ in pairs], "passage": [p for _, p in pairs]})
    pq.write_table(table, work / "pairs.parquet")
    (work / "texts.txt").write_text("\n".join(sentences), encoding="utf-8")
    model = work / ("model" if encoder == "mini" else encoder)
    if not model.is_dir():
        if encoder == "mini":
            create_encoder("mini", sentences, work / "initial", vocabulary=16000, max_tokens=256, seed=seed)
            loaded = load_encoder(str(work / "initial"), max_tokens=256)
        else:
            loaded = load_encoder("multilingual-e5-small")
            if encoder == "cut":
                trim_vocabulary(loaded, [*sentences, *(q for q, _ in pairs), *(p for _, p in pairs)])
        loaded.save(str(model), create_model_card=False)
    return model, work / "pairs.parquet", work / "texts.txt"


class Killed(Exception):
    """A process that the system killed, as it does where memory runs out."""


def run_json(command: list[str]) -> dict:
    """The JSON object that a command prints last. Raises Killed."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode == -signal.SIGKILL:
        raise Killed
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def in_turn(commands: dict[str, list[str]], rounds: int, what: str) -> dict[str, list[dict[str, Any]]]:
    """Each command once a round. A peer that the system kills, for its memory, has no row, and that is printed."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for n in range(rounds):
        for name in list(runs):
            try:
                runs[name].append(run_json(commands[name]))
            except Killed:
                del runs[name]
                print(f"{what}: {name} was killed, probably for its memory", file=sys.stderr, flush=True)
                continue
            print(f"{what}, round {n + 1}: {name} {runs[name][-1]}", file=sys.stderr, flush=True)
    return runs


def median(runs: list[dict[str, Any]], key: str) -> float:
    return statistics.median(run[key] for run in runs)
