"""Checkpoints to resume from. In: such a folder, or an encoder to start from. Out: a State, and the folder again.

encoder/                the weights, a sentence-transformers folder; under LoRA, what its `adapter/` makes of the base
best/                   the encoder of the best inline validation, once there was one
optimizer.safetensors   AdamW's state: number of the parameter and name of the value, as in 0.exp_avg
progress.json           Progress

None of it is a pickle, which would run what whoever wrote it wants.
"""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from hybrid_ir.batches import Batch
from hybrid_ir.config import Experiment
from hybrid_ir.encoders import (
    ADAPTER,
    PAPER_PREFIXES,
    Embedder,
    add_lora,
    declare_dimensions,
    freeze_unused,
    load_adapter,
    load_encoder,
    save_encoder,
    space_of,
)
from hybrid_ir.training.step import make_optimizer
from hybrid_ir.types import InputError


@dataclass
class Progress:
    """What a checkpoint remembers beside weights and optimiser."""

    done: int = 0
    finished: bool = False
    best_step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    stale: int = 0
    """Validations since the best one."""
    owes_validation: bool = False
    """A stop came in the step of an inline validation, which is to be made up."""
    kinds: dict[str, int] = field(default_factory=dict)
    """Batches of each kind that were trained on."""
    pairs: dict[str, dict[str, int]] = field(default_factory=dict)
    """Kind -> "query-passage" -> rows that were trained on."""
    sources: dict[str, dict[str, int]] = field(default_factory=dict)
    """Kind -> source -> rows that were trained on, where sources have a part in the mix."""
    batches_hash: str = ""
    """Of every batch that was trained on, in order: its step, its kind, and the passages and questions of each row."""
    loss: float | None = None
    texts: dict[str, list[int]] = field(default_factory=dict)
    """Language -> texts that were trained on, and how many of them were cut."""
    seconds: float = 0.0
    waited_s: float = 0.0
    """Seconds that steps waited for input; the first batch of each start is counted apart, in `startup_s`."""
    startup_s: float = 0.0
    peak_memory_mb: float = 0.0
    base: str = ""
    """Space id of the encoder that LoRA's adapter is of; empty = all weights are trained."""
    precision: str = ""
    """bf16 or fp32: what `auto` meant where it was trained, which the driver's machine cannot tell."""

    def count(self, batch: Batch) -> None:
        """One more step, trained on `batch`."""
        self.done += 1
        self.kinds[batch.kind] = self.kinds.get(batch.kind, 0) + 1
        rows = self.pairs.setdefault(batch.kind, {})
        for pair, n in Counter("-".join(pair) for pair in batch.pairs).items():
            rows[pair] = rows.get(pair, 0) + n
        for source, n in Counter(batch.sources).items():
            rows = self.sources.setdefault(batch.kind, {})
            rows[source] = rows.get(source, 0) + n
        said = f"{self.batches_hash}{batch.step}{batch.kind}{batch.pairs}".encode()
        ids = (np.ascontiguousarray(ids).tobytes() for ids in (batch.passage_ids_BLS, batch.query_ids_BM))
        self.batches_hash = hashlib.blake2b(b"".join((said, *ids)), digest_size=16).hexdigest()
        for side, tokens in enumerate((batch.query_tokens, batch.passage_tokens)):
            for pair, cut in zip(batch.pairs, tokens.cut.tolist(), strict=True):
                counts = self.texts.setdefault(pair[side], [0, 0])
                counts[0] += 1
                counts[1] += cut

    def note_validation(self, measures: dict[str, float], chosen: str) -> bool:
        """Whether the measures of this step are the best so far, by the one named `chosen`."""
        better = not self.best or measures.get(chosen, -1.0) > self.best.get(chosen, -1.0)
        if better:
            self.best, self.best_step, self.stale = measures, self.done, 0
        else:
            self.stale += 1
        return better


@dataclass(frozen=True)
class State:
    """A training between two steps."""

    model: SentenceTransformer
    embedder: Embedder
    """Around `model`."""
    optimizer: torch.optim.Optimizer
    progress: Progress
    best: Path
    """Folder of the best encoder; empty before the first inline validation."""


def load_state(experiment: Experiment, model: str, checkpoint: Path | None, best: Path, device: torch.device) -> State:
    """The state of a checkpoint, or without one of the encoder named `model`. The best encoder goes into `best`."""
    settings = experiment.train
    base = ""
    if experiment.encoder.lora.rank is None:
        loaded = load_model(experiment, str(checkpoint / "encoder") if checkpoint else model, device)
    else:
        loaded, base = _with_adapter(experiment, model, checkpoint, device)
    embedder = Embedder(
        loaded,
        precision=settings.precision,
        micro_batch_tokens=settings.micro_batch_tokens,
        flash=settings.flash_attention,
        recompute=settings.gradient_checkpointing,
    )
    freeze_unused(embedder)
    optimizer = make_optimizer(embedder, settings.learning_rate, settings.weight_decay)
    if checkpoint is None:
        return State(loaded, embedder, optimizer, Progress(base=base, precision=embedder.precision), best)
    _load_optimizer(optimizer, checkpoint / "optimizer.safetensors", device)
    if (checkpoint / "best").is_dir():
        shutil.copytree(checkpoint / "best", best, dirs_exist_ok=True)
    return State(loaded, embedder, optimizer, read_progress(checkpoint), best)


def _with_adapter(
    experiment: Experiment, name: str, checkpoint: Path | None, device: torch.device
) -> tuple[SentenceTransformer, str]:
    """The encoder that the training began with, with its adapter as it is now; and that encoder's space id.

    What a checkpoint's encoder has folded in cannot be taken out again to the bit, so the base is loaded as it was.
    Raises InputError where it is another one now.
    """
    model = load_model(experiment, name, device)
    base = space_of(model)["id"]
    if checkpoint is not None and (then := read_progress(checkpoint).base) != base:
        raise InputError(
            f"{name} is another encoder now (space {base}) than the one whose adapter this run trains (space "
            f"{then}); put that one back, or choose another out=FOLDER"
        )
    apply_lora(experiment, model, name)
    if checkpoint is not None:
        load_adapter(model, checkpoint / "encoder" / ADAPTER)
    return model, base


def apply_lora(experiment: Experiment, model: SentenceTransformer, name: str) -> list[str]:
    """Give the model, loaded from `name`, the adapter that `encoder.lora` asks for; the layers that it is in."""
    lora = experiment.encoder.lora
    assert lora.rank is not None
    torch.manual_seed(experiment.seed)
    return add_lora(model, base=name, rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, targets=lora.targets)


def load_model(experiment: Experiment, name: str, device: torch.device) -> SentenceTransformer:
    section = experiment.encoder
    torch.manual_seed(experiment.seed)  # weights that a hub model lacks (a new dense layer) are drawn from the seed
    model = load_encoder(
        name,
        pooling=section.pooling,
        query_prefix=section.query_prefix,
        passage_prefix=section.passage_prefix,
        prompts=section.prompts,
        without_prefixes=PAPER_PREFIXES,
        max_tokens=section.max_tokens,
        dropout=section.dropout,
        device=str(device),
    )
    declare_dimensions(model, experiment.loss.dimensions)
    return model


def read_progress(checkpoint: Path) -> Progress:
    return Progress(**json.loads((checkpoint / "progress.json").read_text(encoding="utf-8")))


def save_state(state: State, checkpoint: Path) -> None:
    save_encoder(state.model, checkpoint / "encoder")
    if any(state.best.iterdir()):
        shutil.copytree(state.best, checkpoint / "best")
    values = {
        f"{number}.{name}": value
        for number, each in state.optimizer.state_dict()["state"].items()
        for name, value in each.items()
    }
    save_file(values, checkpoint / "optimizer.safetensors")
    state.progress.peak_memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (checkpoint / "progress.json").write_text(json.dumps(vars(state.progress)), encoding="utf-8")


def _load_optimizer(optimizer: torch.optim.Optimizer, file: Path, device: torch.device) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in load_file(file, device=str(device)).items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
