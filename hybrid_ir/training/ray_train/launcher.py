"""Starts Ray Train and looks after it. In: a checked training. Out: its last checkpoint in RUN/.last, its log.

The driver sleeps beside the workers: it passes their rows on, and tells them when to stop.
"""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer

from hybrid_ir.batches import Plan
from hybrid_ir.config import Experiment
from hybrid_ir.data import Store
from hybrid_ir.encoders import TextReader
from hybrid_ir.measure_names import HEADLINE
from hybrid_ir.reports import read_log
from hybrid_ir.storage import absolute, open_filesystem
from hybrid_ir.training.checkpoint import Progress, read_progress
from hybrid_ir.training.decision import is_stale
from hybrid_ir.training.ray_train.causes import cause_of
from hybrid_ir.training.ray_train.exchange import Assignment, Monitor
from hybrid_ir.training.ray_train.process_group import NodeTorchConfig
from hybrid_ir.training.ray_train.run_log import open_log


def launch(
    experiment: Experiment,
    store: Store,
    plan: Plan,
    model: str,
    reader: TextReader,
    run: Path,
    report: Callable[[dict[str, Any]], None],
) -> tuple[Progress, Path | None]:
    """Train, and return progress and folder of the last checkpoint; no folder if it was stopped before the first."""
    settings = experiment.train
    monitor: Any = ray.remote(Monitor).options(num_cpus=0).remote()
    trainer = _trainer(Assignment(_anywhere(experiment), store, plan, model, reader, monitor))
    outcome: list[Any] = []

    def fit() -> None:
        try:
            outcome.append(trainer.fit())
        except BaseException as error:  # raised again below, in the main thread
            outcome.append(error)

    # In a thread, so that Ctrl-C is ours to handle: Ray's own handler would kill the workers at once.
    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    asynchronous, chosen_by = settings.validation == "async", settings.early_stopping_measure
    running, asked, stale = True, False, False
    with stop_signals() as stop_wanted, open_log(run, experiment) as write:

        def drained() -> list[dict[str, Any]]:
            """Rows that have come, all of them in the log: `report` may raise at the first."""
            rows = ray.get(monitor.drain.remote())
            for row in rows:
                write(row)
            return rows

        thread.start()
        try:
            while running:
                thread.join(timeout=0.3)
                running = thread.is_alive()
                if stop_wanted.is_set() and not asked:
                    asked = True
                    report({"stopping": True})
                    ray.get(monitor.stop.remote())
                for row in drained():
                    report(row)
                    # The workers do not wait to learn that they stopped getting better, so we tell them. What an
                    # attempt that was rolled back had measured at later steps is not this one's.
                    if asynchronous and chosen_by in row and not (asked or stale):
                        rows = [each for each in read_log(run / "log.jsonl") or [] if each["step"] <= row["step"]]
                        stale = is_stale(rows, chosen_by, settings.patience)
                        if stale:
                            ray.get(monitor.stop.remote())
        except Exception:  # a sweep ends a trial from within `report`: its workers must not outlive it
            ray.get(monitor.stop.remote())
            thread.join()
            drained()
            raise
    result = outcome[0]
    if isinstance(result, BaseException):
        raise cause_of(result)
    if result.checkpoint is None:
        return Progress(), None
    shutil.rmtree(run / ".last", ignore_errors=True)
    folder = Path(result.checkpoint.to_directory(str(run / ".last")))
    progress = read_progress(folder)
    if asynchronous:
        progress.finished = progress.finished or stale
        _take_best(progress, result.best_checkpoints or [], folder, chosen_by)
    return progress, folder


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Context in which the first SIGINT or SIGTERM sets the event, and one that comes later raises KeyboardInterrupt.

    What follows within a second is the first again: `timeout` sends SIGTERM to its command and then to the group that
    the command is in.
    """
    event, first = threading.Event(), 0.0

    def handle(number: int, frame: Any) -> None:
        nonlocal first
        if not event.is_set():
            first = time.monotonic()
            event.set()
        elif time.monotonic() - first > 1:
            raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _trainer(given: Assignment) -> TorchTrainer:
    experiment, settings = given.experiment, given.experiment.train

    def enter_worker(given: Assignment) -> None:
        # Pickled by value, and importing where it runs: the controller unpickles it too, and would spend ten seconds
        # of a small machine on importing what only workers need.
        from hybrid_ir.training.ray_train.worker import train_worker

        train_worker(given)

    def enter_validation(checkpoint: ray.train.Checkpoint, **_: Any) -> dict[str, float]:
        from hybrid_ir.training.ray_train.worker import validate_checkpoint

        return validate_checkpoint(checkpoint, given)

    gpu, asynchronous = settings.gpus_per_worker > 0, settings.validation == "async"
    per_worker = {"CPU": settings.cpus_per_worker, **({"GPU": settings.gpus_per_worker} if gpu else {})}
    per_validation = {"num_cpus": settings.cpus_per_validation, "num_gpus": settings.gpus_per_validation}
    filesystem, inner = open_filesystem(experiment.out)
    return TorchTrainer(
        enter_worker,  # pyright: ignore[reportArgumentType]
        train_loop_config=given,  # type: ignore[arg-type]
        torch_config=NodeTorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=settings.workers, use_gpu=gpu, resources_per_worker=per_worker
        ),
        run_config=ray.train.RunConfig(
            name="train",
            storage_filesystem=filesystem,
            storage_path=f"{inner}/ray",
            failure_config=ray.train.FailureConfig(max_failures=settings.max_failures),
            # Ray keeps the latest beside the best.
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=2, checkpoint_score_attribute=settings.early_stopping_measure if asynchronous else None
            ),
        ),
        validation_config=ray.train.ValidationConfig(fn=enter_validation, ray_remote_kwargs=per_validation)
        if asynchronous
        else None,
    )


def _anywhere(experiment: Experiment) -> Experiment:
    """The experiment for processes that stand in other working directories: its lexicon by its full path."""
    batch = experiment.batch
    if batch.lexicon == "cldr":
        return experiment
    return experiment.model_copy(update={"batch": batch.model_copy(update={"lexicon": absolute(batch.lexicon)})})


def _take_best(
    progress: Progress, checkpoints: Sequence[tuple[Any, dict[str, Any]]], folder: Path, measure: str
) -> None:
    """Put the encoder of the best validated checkpoint where an inline validation would have left it."""
    validated = [(metrics, checkpoint) for checkpoint, metrics in checkpoints if measure in metrics]
    if not validated:
        return
    metrics, checkpoint = max(validated, key=lambda each: each[0][measure])
    progress.best_step = metrics["step"]
    progress.best = {key: metrics[key] for key in (*HEADLINE, "AP_mean") if key in metrics}
    with checkpoint.as_directory() as best:
        shutil.copytree(Path(best) / "encoder", folder / "best", dirs_exist_ok=True)
