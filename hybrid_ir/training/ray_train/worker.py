"""What Ray Train runs: a DDP worker, and the validation of a checkpoint beside it.

In: an assignment. Out: checkpoints to Ray Train, rows to the driver.
"""

from __future__ import annotations

import gc
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.util import get_current_placement_group

from hybrid_ir.batches import Batch, ChunkIndex, Waited, builder_for, in_process_feed, ray_data_feed
from hybrid_ir.encoders import quiet_libraries
from hybrid_ir.machine import usable_cpus
from hybrid_ir.training.checkpoint import State, load_model, load_state, read_progress, save_state
from hybrid_ir.training.loop import train_steps
from hybrid_ir.training.ray_train.exchange import Assignment, Recorder
from hybrid_ir.training.ray_train.saved import seal
from hybrid_ir.training.validation import validate, validation_collection


def train_worker(given: Assignment) -> None:
    """Train from the latest checkpoint, or from the start, until the loop ends."""
    quiet_libraries()
    settings, store = given.experiment.train, given.store
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        cpus = usable_cpus() // context.get_local_world_size()
        torch.set_num_threads(settings.threads_per_worker or max(1, cpus))
    if rank == 0:
        ray.get(given.monitor.hold.remote(get_current_placement_group()))
    own = ray.train.get_checkpoint()  # where Ray has started this very group again, for a node that was taken away
    latest = own or given.checkpoint
    with tempfile.TemporaryDirectory(prefix="hybrid-ir-best-", ignore_cleanup_errors=True) as best:
        with latest.as_directory() if latest else nullcontext() as folder:
            checkpoint = Path(folder) if folder else None
            state = load_state(given.experiment, given.model, checkpoint, Path(best), device)
        progress = state.progress
        progress.owes_validation = progress.owes_validation or (given.owes_validation and own is None)
        if progress.finished and not progress.owes_validation:
            return
        if settings.compile:
            transformer: Any = state.model[0]
            transformer.auto_model.compile()
        collection = validation_collection(given.experiment, store)
        recorder = Recorder(given.monitor, rank)
        feed = Waited(_feed(given, progress.done, rank, workers))
        save = partial(_report, state, recorder, rank)
        gc.freeze()  # else all that was imported is gone through again and again, for a twentieth of a small step
        try:
            train_steps(given.experiment, state, feed, collection, recorder, save, rank, workers)
        finally:
            feed.close()


def _report(state: State, recorder: Recorder, rank: int, measure: bool) -> None:
    """Report a checkpoint; every rank must call it. `measure` has a Ray task of its own validate it meanwhile."""
    metrics = {"done": state.progress.done}
    if rank != 0:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory(prefix="hybrid-ir-checkpoint-") as folder:
        save_state(state, Path(folder))
        seal(Path(folder), state.progress.done)
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder), validation=measure)
    recorder.saved(state.progress.done)


def _feed(given: Assignment, start: int, rank: int, workers: int) -> Iterator[Batch]:
    settings = given.experiment.train
    make_builder = partial(builder_for, given.experiment, given.store, given.plan, given.reader)
    if settings.feed == "in_process":
        return in_process_feed(make_builder(), start, settings.steps)
    name = [f"hybrid-ir-chunks-{uuid.uuid4().hex}"]
    if workers > 1:
        dist.broadcast_object_list(name, src=0)
    index: Any = None
    if rank == 0:
        actor: Any = ray.remote(ChunkIndex).options(name=name[0], num_cpus=0, max_concurrency=workers + 2)
        data_actors = (settings.data_actors, settings.cpus_per_data_actor)
        index = actor.remote(make_builder, start, settings.steps, workers, *data_actors)
        ray.get(index.__ray_ready__.remote())
    if workers > 1:
        dist.barrier()
    # Rank 0's handle keeps the actor alive; a named look-up by the others does not outlive it.
    if rank != 0:
        index = ray.get_actor(name[0])
    return ray_data_feed(index, rank, start, settings.steps)


def validate_checkpoint(checkpoint: ray.train.Checkpoint, given: Assignment) -> dict[str, float]:
    """Measures of a checkpoint's encoder on the store's validation split, also sent to the monitor."""
    quiet_libraries()
    experiment = given.experiment
    device = torch.device("cuda" if experiment.train.gpus_per_validation > 0 else "cpu")
    with checkpoint.as_directory() as folder:
        step = read_progress(Path(folder)).done
        model = load_model(experiment, str(Path(folder) / "encoder"), device)
    collection = validation_collection(experiment, given.store)
    assert collection is not None
    measures = validate(model, collection, experiment.evaluate)
    ray.get(given.monitor.row.remote({"step": step, **measures}))
    return {**measures, "step": step}
