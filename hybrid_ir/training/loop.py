"""The training loop, which every rank runs in step. In: a state and a feed of batches. Out: the state, further on.

A step depends on (seed, step, rank) and the weights alone: no sampler, scheduler or generator state is carried over.
(Which values dropout drops also depends on whether a CPU's layers go in halves, so on the number of threads.)
So a checkpoint is weights, optimiser and a few counts, and resumes on any number of workers with the batches it would
have had.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from hybrid_ir.batches import Waited
from hybrid_ir.config import Experiment
from hybrid_ir.encoders import save_encoder
from hybrid_ir.training.checkpoint import State
from hybrid_ir.training.decision import Decision, decide
from hybrid_ir.training.figures import Figures
from hybrid_ir.training.losses.settings import LossSettings
from hybrid_ir.training.step import across_ranks, backward, learning_rate_at, update
from hybrid_ir.training.validation import validate
from hybrid_ir.types import Collection

if TYPE_CHECKING:
    from hybrid_ir.training.ray_train.exchange import Recorder


def train_steps(
    experiment: Experiment,
    state: State,
    feed: Waited,
    collection: Collection | None,
    recorder: Recorder,
    save: Callable[[bool], None],
    rank: int,
    workers: int,
) -> None:
    """Train to the end, an early stop, or a stop that was asked for.

    `collection` is what to validate on. `save` keeps a checkpoint of the state; its argument says whether to measure it
    beside the training.
    """
    settings, progress, device = experiment.train, state.progress, state.model.device
    embedder = state.embedder
    if workers > 1:
        embedder = across_ranks(embedder, settings.gradient_exchange)
    state.embedder.train()
    loss_settings = LossSettings(**experiment.loss.model_dump())
    figures = Figures(workers, device)
    first, started = progress.done, time.perf_counter()

    def keep(decision: Decision) -> Decision:
        """Validate and save as was decided. Returns the same decision, or to finish where patience is at its end."""
        if decision.validate == "inline":
            assert collection is not None
            measures = validate(state.model, collection, experiment.evaluate, rank, workers)
            recorder.validation(progress.done, measures)
            if progress.note_validation(measures, settings.early_stopping_measure) and rank == 0:
                save_encoder(state.model, state.best)
            decision = decision.after_validation(progress.stale, settings.patience)
        progress.finished, progress.owes_validation = decision.then == "finish", decision.owes_validation
        save(decision.validate == "async")
        return decision

    # Left in the step of a validation, or in the last one by a version that did not finish it then.
    if progress.owes_validation or first == settings.steps:
        left = keep(decide(first, settings, stop=False, can_validate=collection is not None))
        if left.then != "continue":
            return
    saved = time.perf_counter()
    for step in range(first, settings.steps):
        batch = next(feed)
        if step == first:  # the pipeline's start is not the steps' input wait
            progress.startup_s, feed.seconds, started = feed.seconds, 0.0, time.perf_counter()
        torch.manual_seed(step_seed(experiment.seed, step, rank))
        loss = backward(embedder, batch, loss_settings, rank, workers)
        rate = learning_rate_at(
            step, peak=settings.learning_rate, warmup_steps=settings.warmup_steps, steps=settings.steps
        )
        norm = update(state.optimizer, state.embedder, rate, settings.gradient_clip)
        # The clock of one rank decides for all.
        wishes = {
            "stop": recorder.stop_wanted(),
            "overdue": rank == 0 and _is_overdue(saved, settings.checkpoint_minutes),
        }
        progress.count(batch)
        row = {"step": progress.done, "learning_rate": rate, "kinds": dict(progress.kinds)}
        figures.tell(row, loss, norm, **wishes)
        told = figures.read()
        decision = decide(
            progress.done,
            settings,
            stop=any(each.stop for each in told),
            can_validate=collection is not None,
            overdue=any(each.overdue for each in told),
        )
        told += figures.read(now=decision.save or decision.log)
        elapsed_s = time.perf_counter() - started
        for each in told:
            progress.loss = each.row["loss"]
            at_once = decision.log and each is told[-1]
            recorder.step(each.row, at_once=at_once, elapsed_s=elapsed_s, waited_s=feed.seconds, pairs=batch.size)
        if decision.save:
            progress.seconds += time.perf_counter() - started
            progress.waited_s += feed.seconds
            decision = keep(decision)
            feed.seconds, started = 0.0, time.perf_counter()
            saved = started
            recorder.restart_clock()
        if decision.then != "continue":
            return


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of the dropout of one rank's step."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest(), "big") >> 1


def _is_overdue(saved: float, minutes: float | None) -> bool:
    return minutes is not None and time.perf_counter() - saved >= 60 * minutes
