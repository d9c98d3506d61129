"""What trials will cost. In: their experiments, and the store. Out: hours and GPU hours, before anything starts.

The time of a step is measured on a CPU, and comes from arithmetic on a GPU.

Floating point operations of a training step are 6 x parameters x tokens (2 forward, 4 backward), parameters without the
vocabulary's (Kaplan et al., arXiv 2001.08361). An estimate: a sweep corrects it as its trials end.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hybrid_ir.config import Experiment
from hybrid_ir.data import Store
from hybrid_ir.encoders import PRESET_TOKENS
from hybrid_ir.training import measured_step_s

GPU_FLOPS = 312e12 * 0.35
"""An A100's bf16 peak, at the share of it that training of small encoders was reported to reach. An assumption."""
STARTUP_S = 40.0
"""Seconds of one CPU to start a trial's processes and to evaluate at its end: measured on two slow cores."""
ASSUMED_TOKENS = 150
"""Tokens of a query and its passage together, where no store is at hand to count them in."""
CHARACTERS_PER_TOKEN = 3.5
LAYERS: dict[str, tuple[int, int, int]] = {
    # layers, hidden size, intermediate size
    "tiny": (2, 128, 256),
    "mini": (4, 256, 1024),
    "multilingual-e5-small": (12, 384, 1536),
    "intfloat/multilingual-e5-small": (12, 384, 1536),
    "intfloat/multilingual-e5-base": (12, 768, 3072),
    "intfloat/multilingual-e5-large": (24, 1024, 4096),
    "BAAI/bge-m3": (24, 1024, 4096),
    "FacebookAI/xlm-roberta-base": (12, 768, 3072),
    "FacebookAI/xlm-roberta-large": (24, 1024, 4096),
    "google-bert/bert-base-multilingual-cased": (12, 768, 3072),
    "sentence-transformers/LaBSE": (12, 768, 3072),
    "microsoft/Multilingual-MiniLM-L12-H384": (12, 384, 1536),
    "distilbert/distilbert-base-multilingual-cased": (6, 768, 3072),
}


@dataclass(frozen=True)
class Cost:
    hours: float
    """Wall-clock, `concurrent` trials at a time."""
    gpu_hours: float
    basis: str
    """What it was computed from, in words."""


def estimate_cost(experiments: Sequence[Experiment], concurrent: int, store: Store | None) -> Cost | None:
    """None when an encoder's size is not known (a hub model that is neither listed nor on disk)."""
    tokens = tokens_per_pair(store) if store is not None else ASSUMED_TOKENS
    seconds, gpu_seconds, bases = 0.0, 0.0, set()
    for experiment in experiments:
        settings, length = experiment.train, min(tokens, 2 * (experiment.encoder.max_tokens or PRESET_TOKENS))
        shape = _shape(experiment.encoder.name)
        if shape is None:
            return None
        shape = (experiment.encoder.layers or shape[0], *shape[1:])
        if settings.gpus_per_worker:
            flops = 6 * parameters(shape) * length * experiment.batch.size * settings.steps
            trial_s = flops / (GPU_FLOPS * settings.workers) + STARTUP_S
            gpu_seconds += trial_s * settings.workers * settings.gpus_per_worker
            bases.add(f"{GPU_FLOPS / 1e12:.0f} TFLOP/s a GPU, assumed")
        else:
            step_s = measured_step_s(
                shape,
                experiment.encoder.vocabulary,
                experiment.batch.size,
                round(length / 2),
                settings.threads_per_worker,
            )
            trial_s = step_s * settings.steps / settings.workers + STARTUP_S
            bases.add(f"a measured step of {step_s:.2f} s")
        seconds += trial_s
    return Cost(
        seconds / concurrent / 3600, gpu_seconds / 3600, f"{', '.join(sorted(bases))}; {tokens:.0f} tokens a pair"
    )


def parameters(shape: tuple[int, int, int]) -> int:
    """Weights of a transformer's layers: attention's four projections and the two of the feed-forward."""
    layers, hidden, intermediate = shape
    return layers * (4 * hidden * hidden + 2 * hidden * intermediate)


def encoder_parameters(name: str, layers: int | None = None) -> int | None:
    """Parameters without the vocabulary's, with so many layers or all; None if the encoder is neither known nor on
    disk."""
    shape = _shape(name)
    return None if shape is None else parameters((layers or shape[0], *shape[1:]))


def tokens_per_pair(store: Store) -> float:
    """Tokens of a query and its passage, from the lengths of a few texts of every language."""
    characters = {"q": [], "p": []}
    for i, partition in enumerate(store.partitions):
        rows = np.arange(min(32, partition.rows))
        for language in partition.languages:
            for half, lengths in characters.items():
                values = store.take(i, rows, f"{half}_{language}")
                lengths += [len(value if half == "q" else value[0]) for value in values]
    return sum(float(np.mean(lengths)) for lengths in characters.values() if lengths) / CHARACTERS_PER_TOKEN


def _shape(name: str) -> tuple[int, int, int] | None:
    if name in LAYERS:
        return LAYERS[name]
    for path in (Path(name) / "config.json", Path(name) / "0_Transformer" / "config.json"):
        if path.is_file():
            config = json.loads(path.read_text(encoding="utf-8"))
            keys = ("num_hidden_layers", "hidden_size", "intermediate_size")
            if all(isinstance(config.get(key), int) for key in keys):
                return tuple(config[key] for key in keys)  # type: ignore[return-value]
    return None
