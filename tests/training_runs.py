"""A short training on the made-up store, and the same as a plain loop of torch to hold runs against."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch

from hybrid_ir.batches.from_experiment import builder_for, plan_for
from hybrid_ir.config.experiment import Experiment
from hybrid_ir.config.loading import load_experiment
from hybrid_ir.data.store import open_store
from hybrid_ir.encoders.embedding import Embedder, freeze_unused
from hybrid_ir.encoders.tokens import TextReader
from hybrid_ir.training.checkpoint import load_model
from hybrid_ir.training.step import LossSettings, backward, learning_rate_at, make_optimizer, update

STEPS = 60
OVERRIDES = [
    "encoder.vocabulary=600", "encoder.max_tokens=32", "batch.size=18", f"train.steps={STEPS}", "train.learning_rate=1e-3",  # noqa: E501
    "train.warmup_steps=4", "train.evaluate_every=10", "train.precision=fp32", "train.cpus_per_worker=0.4",
    "train.cpus_per_data_actor=0.1", "train.feed=in_process", "train.threads_per_worker=1",
]  # fmt: skip


def experiment(store: Path, out: Path, *overrides: str) -> Experiment:
    return load_experiment(None, [*OVERRIDES, f"store={store}", f"out={out}", *overrides])


class Plain:
    """A training without Ray, in one process and without a stop: the losses of all steps, what was trained on, and
    the weights wherever a run validates."""

    def __init__(self, experiment: Experiment, initial: Path) -> None:
        settings, store = experiment.train, open_store(experiment.store)
        assert settings.evaluate_every
        torch.set_num_threads(1)
        model = load_model(experiment, str(initial), torch.device("cpu"))
        builder = builder_for(experiment, store, plan_for(store, experiment), TextReader.of(model))
        embedder = Embedder(model, precision="fp32", micro_batch_tokens=settings.micro_batch_tokens)
        freeze_unused(embedder)
        embedder.train()
        optimizer = make_optimizer(embedder, settings.learning_rate, settings.weight_decay)
        loss = LossSettings(**experiment.loss.model_dump())
        self.losses: list[float] = []
        self.batches: Counter[str] = Counter()
        self.rows: Counter[tuple[str, str]] = Counter()
        self.weights: dict[int, dict[str, np.ndarray]] = {}
        for step in range(settings.steps):
            batch = builder.build(step)
            self.losses.append(float(backward(embedder, batch, loss, 0, 1)))
            rate = learning_rate_at(
                step, peak=settings.learning_rate, warmup_steps=settings.warmup_steps, steps=settings.steps
            )
            update(optimizer, embedder, rate, settings.gradient_clip)
            self.batches[batch.kind] += 1
            self.rows.update((batch.kind, "-".join(pair)) for pair in batch.pairs)
            if (step + 1) % settings.evaluate_every == 0:
                state = model[0].auto_model.state_dict()  # type: ignore[union-attr]
                self.weights[step + 1] = {name: value.detach().numpy().copy() for name, value in state.items()}
