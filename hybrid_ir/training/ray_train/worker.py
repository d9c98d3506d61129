"""The training loop of one DDP worker, inside Ray Train. What it learns it sends to the driver; only rank 0 speaks.

A step depends on (seed, step, rank) and the weights alone: no sampler, scheduler or generator state is carried over, so a
checkpoint is weights, optimiser and a few counts, and resumes on any number of workers with the batches it would have had.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from sentence_transformers import SentenceTransformer
from torch.nn.parallel import DistributedDataParallel

from hybrid_ir.batches import Batch, ChunkIndex, Waited, builder_for, in_process_feed, ray_data_feed
from hybrid_ir.encoders import Embedder, encode, freeze_unused, load_encoder, quiet_libraries
from hybrid_ir.evaluation import evaluate_collection, with_mean
from hybrid_ir.training.ray_train.job import Job
from hybrid_ir.training.step import LossSettings, backward, learning_rate_at, make_optimizer, update
from hybrid_ir.types import Collection

LOG_EVERY_S = 0.5


@dataclass
class Progress:
    """What a checkpoint remembers beside weights and optimiser."""

    done: int = 0
    finished: bool = False
    best_step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    stale: int = 0
    """Validations since the best one."""
    kinds: dict[str, int] = field(default_factory=dict)
    """Batches of each kind that were trained on."""
    pairs: dict[str, dict[str, int]] = field(default_factory=dict)
    """Kind -> "query-passage" -> rows that were trained on."""
    loss: float | None = None
    seconds: float = 0.0
    waited_s: float = 0.0
    """Seconds that steps waited for input; the first batch of each start is counted apart, in `startup_s`."""
    startup_s: float = 0.0
    peak_memory_mb: float = 0.0


def train_worker(job: Job) -> None:
    """Train from the latest checkpoint, or from the start, to the end, an early stop, or a stop that was asked for."""
    quiet_libraries()
    experiment, settings = job.experiment, job.experiment.train
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(
            settings.threads_per_worker or max(1, (os.cpu_count() or 1) // context.get_local_world_size())
        )

    progress = Progress()
    latest = ray.train.get_checkpoint()
    with latest.as_directory() if latest else tempfile.TemporaryDirectory() as folder:
        if latest:
            progress = Progress(**json.loads((Path(folder) / "progress.json").read_text(encoding="utf-8")))
        model = start_model(job, str(Path(folder) / "encoder") if latest else job.model, device)
        embedder = Embedder(model, precision=settings.precision, micro_batch_tokens=settings.micro_batch_tokens)
        freeze_unused(embedder)
        optimizer = make_optimizer(embedder, settings.learning_rate, settings.weight_decay)
        if latest:
            optimizer.load_state_dict(torch.load(Path(folder) / "optimizer.pt", map_location=device, weights_only=True))
        best = Path(tempfile.mkdtemp(prefix="hybrid-ir-best-"))
        if latest and (Path(folder) / "best").is_dir():
            shutil.copytree(Path(folder) / "best", best, dirs_exist_ok=True)
    if progress.finished:
        return
    if settings.compile:
        transformer: Any = model[0]
        transformer.auto_model.compile()
    wrapped = embedder
    if workers > 1:
        wrapped = DistributedDataParallel(embedder, device_ids=[device.index] if device.type == "cuda" else None)
    embedder.train()

    validation = job.store.collection("validation") if job.store.manifest["eval"].get("validation") else None
    loss_settings = LossSettings(**experiment.loss.model_dump())
    feed = Waited(_feed(job, progress.done, rank, workers))
    recorder = _Recorder(job.monitor, rank)
    first = progress.done
    started = time.perf_counter()
    try:
        for step in range(first, settings.steps):
            batch = next(feed)
            if step == first:  # the pipeline's start is not the steps' input wait
                progress.startup_s, feed.seconds, started = feed.seconds, 0.0, time.perf_counter()
            torch.manual_seed(step_seed(experiment.seed, step, rank))
            loss = backward(wrapped, batch, loss_settings, rank, workers)
            rate = learning_rate_at(
                step, peak=settings.learning_rate, warmup_steps=settings.warmup_steps, steps=settings.steps
            )
            norm = update(optimizer, embedder, rate, settings.gradient_clip)
            loss, stop = _agree(loss, recorder.stop_wanted(), workers, device)

            progress.done = step + 1
            progress.loss = loss
            _count(progress, batch)
            last = progress.done == settings.steps
            validate = validation is not None and (
                last or (settings.evaluate_every is not None and progress.done % settings.evaluate_every == 0)
            )
            recorder.step(
                force=last or validate or stop,
                step=progress.done,
                loss=loss,
                learning_rate=rate,
                gradient_norm=norm,
                elapsed_s=time.perf_counter() - started,
                waited_s=feed.seconds,
                pairs=batch.size,
                kinds=progress.kinds,
            )
            save = (
                validate
                or stop
                or (settings.checkpoint_every is not None and progress.done % settings.checkpoint_every == 0)
            )
            if last or save:
                progress.seconds += time.perf_counter() - started
                progress.waited_s += feed.seconds
                asynchronous = settings.validation == "async"
                if validate and not stop and not asynchronous:
                    assert validation is not None
                    _validate(job, model, validation, progress, best, rank, workers, recorder)
                stale = settings.patience is not None and progress.stale >= settings.patience
                progress.finished = (last and not (validate and stop)) or stale
                _save(model, optimizer, progress, best, rank, measure=validate and asynchronous)
                feed.seconds, started = 0.0, time.perf_counter()
                recorder.restart_clock()
            if progress.finished or stop:
                break
    finally:
        feed.close()
        shutil.rmtree(best, ignore_errors=True)


def start_model(job: Job, name: str, device: torch.device) -> SentenceTransformer:
    section = job.experiment.encoder
    torch.manual_seed(job.experiment.seed)  # weights that a hub model lacks (a new dense layer) are drawn from the seed
    return load_encoder(
        name,
        pooling=section.pooling,
        query_prefix=section.query_prefix,
        passage_prefix=section.passage_prefix,
        max_tokens=section.max_tokens,
        device=str(device),
    )


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of the dropout of one rank's step."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest(), "big") >> 1


def _feed(job: Job, start: int, rank: int, workers: int) -> Iterator[Batch]:
    settings = job.experiment.train
    arguments = (job.experiment, job.store, job.plan, job.tokenizer)
    if settings.feed == "in_process":
        return in_process_feed(builder_for(*arguments), start, settings.steps)
    name = [f"hybrid-ir-chunks-{uuid.uuid4().hex}"]
    if workers > 1:
        dist.broadcast_object_list(name, src=0)
    index: Any = None
    if rank == 0:
        index = (
            ray.remote(ChunkIndex)
            .options(name=name[0], num_cpus=0, max_concurrency=workers + 2)
            .remote(
                partial(builder_for, *arguments),
                start,
                settings.steps,
                workers,
                settings.data_actors,
                settings.cpus_per_data_actor,
            )
        )
        ray.get(index.__ray_ready__.remote())
    if workers > 1:
        dist.barrier()
    # Rank 0's handle keeps the actor alive; a named look-up by the others does not outlive it.
    if rank != 0:
        index = ray.get_actor(name[0])
    return ray_data_feed(index, rank, start, settings.steps)


def _agree(loss: float, stop: bool, workers: int, device: torch.device) -> tuple[float, bool]:
    """Mean loss over the ranks, and whether any was told to stop: all leave at the same step, or the others would hang."""
    if workers == 1:
        return loss, stop
    values = torch.tensor([loss / workers, float(stop)], device=device)
    dist.all_reduce(values)
    return float(values[0]), bool(values[1] > 0)


def _count(progress: Progress, batch: Batch) -> None:
    progress.kinds[batch.kind] = progress.kinds.get(batch.kind, 0) + 1
    rows = progress.pairs.setdefault(batch.kind, {})
    for (query_language, passage_language), n in Counter(batch.pairs).items():
        key = f"{query_language}-{passage_language}"
        rows[key] = rows.get(key, 0) + n


def _validate(
    job: Job,
    model: SentenceTransformer,
    collection: Collection,
    progress: Progress,
    best: Path,
    rank: int,
    workers: int,
    recorder: _Recorder,
) -> None:
    """Each rank encodes its share; rank 0 measures; all learn the measures. Keeps the best encoder in `best`."""
    section = job.experiment.evaluate
    vectors = []
    for role, texts in (
        ("query", [q.text for q in collection.queries]),
        ("document", [c.text for c in collection.candidates]),
    ):
        share = encode(
            model, texts[rank::workers], role=role, precision=section.precision, token_budget=section.token_budget
        )
        parts: list[Any] = [share]
        if workers > 1:
            parts = [None] * workers
            dist.all_gather_object(parts, share)
        whole = np.empty((len(texts), share.shape[1]), dtype=np.float32)
        for r, part in enumerate(parts):
            whole[r::workers] = part
        vectors.append(whole)
    measures: list[Any] = [validation_measures(collection, *vectors) if rank == 0 else None]
    if workers > 1:
        dist.broadcast_object_list(measures, src=0)
    values = measures[0]
    recorder.validation(progress.done, values)
    chosen = job.experiment.train.early_stopping_measure
    if values.get(chosen, -1.0) > progress.best.get(chosen, -1.0) or not progress.best:
        progress.best, progress.best_step, progress.stale = values, progress.done, 0
        if rank == 0:
            model.save(str(best), create_model_card=False)
    else:
        progress.stale += 1


def _save(
    model: SentenceTransformer,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    best: Path,
    rank: int,
    *,
    measure: bool,
) -> None:
    """Report a checkpoint; every rank must call it. `measure` has a Ray task of its own validate it meanwhile."""
    progress.peak_memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if rank != 0:
        ray.train.report({"done": progress.done})
        return
    with tempfile.TemporaryDirectory(prefix="hybrid-ir-checkpoint-") as folder:
        model.save(f"{folder}/encoder", create_model_card=False)
        if any(best.iterdir()):
            shutil.copytree(best, f"{folder}/best")
        torch.save(optimizer.state_dict(), f"{folder}/optimizer.pt")
        Path(folder, "progress.json").write_text(json.dumps(vars(progress)), encoding="utf-8")
        ray.train.report(
            {"done": progress.done}, checkpoint=ray.train.Checkpoint.from_directory(folder), validation=measure
        )


def validate_checkpoint(checkpoint: ray.train.Checkpoint, job: Job) -> dict[str, float]:
    """Measures of a checkpoint's encoder on the store's validation split, also sent to the monitor. A task of its own."""
    quiet_libraries()
    section, gpu = job.experiment.evaluate, job.experiment.train.gpus_per_validation > 0
    collection = job.store.collection("validation")
    with checkpoint.as_directory() as folder:
        done = json.loads((Path(folder) / "progress.json").read_text(encoding="utf-8"))["done"]
        model = start_model(job, str(Path(folder) / "encoder"), torch.device("cuda" if gpu else "cpu"))
    queries, passages = (
        encode(model, texts, role=role, precision=section.precision, token_budget=section.token_budget)
        for role, texts in (
            ("query", [q.text for q in collection.queries]),
            ("document", [c.text for c in collection.candidates]),
        )
    )
    measures = validation_measures(collection, queries, passages)
    ray.get(job.monitor.row.remote({"step": done, **measures}))
    return {**measures, "step": done}


def validation_measures(collection: Collection, queries: np.ndarray, passages: np.ndarray) -> dict[str, float]:
    """What chooses a checkpoint. AP_mean is over those of mono, cross and multi that the collection has."""
    summary = evaluate_collection(collection.queries, collection.candidates, queries, passages, resamples=0).summary
    found = {k: summary[k] for k in ("AP_mono", "AP_cross", "AP_multi", "rank_distance") if summary[k] is not None}
    return {**found, "AP_mean": with_mean(found)["AP_mean"]}


class _Recorder:
    """Sends rank 0's rows to the monitor, a few a second, and keeps its last answer to whether to stop."""

    def __init__(self, monitor: Any, rank: int) -> None:
        self._monitor = monitor if rank == 0 else None
        self._answer: Any = None
        self._stop = False
        self._steps = 0
        self._pairs = 0
        self._sent_at = 0.0
        self._elapsed_s = 0.0
        self._waited_s = 0.0

    def restart_clock(self) -> None:
        self._elapsed_s = self._waited_s = 0.0

    def stop_wanted(self) -> bool:
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            self._stop = self._stop or ray.get(self._answer)
            self._answer = None
        return bool(self._stop)

    def step(self, *, force: bool, elapsed_s: float, waited_s: float, pairs: int, **row: Any) -> None:
        if self._monitor is None:
            return
        self._pairs += pairs
        # The clock is the training's own: a checkpoint or a validation between two rows is not theirs.
        if not force and elapsed_s - self._elapsed_s < LOG_EVERY_S:
            return
        seconds = max(elapsed_s - self._elapsed_s, 1e-9)
        row["pairs_per_s"] = self._pairs / seconds
        row["input_wait"] = (waited_s - self._waited_s) / seconds
        row["kinds"] = dict(row["kinds"])
        self._pairs, self._elapsed_s, self._waited_s = 0, elapsed_s, waited_s
        self._send(row)

    def validation(self, step: int, measures: dict[str, float]) -> None:
        if self._monitor is not None:
            self._send({"step": step, **measures})

    def _send(self, row: dict[str, Any]) -> None:
        monitor: Any = self._monitor
        answer = monitor.row.remote(row)
        if self._answer is None:
            self._answer = answer
