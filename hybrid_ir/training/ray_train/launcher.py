"""Starts Ray Train and looks after it. In: a checked training. Out: its last checkpoint in RUN/.last, its log.

The driver sleeps beside the workers: it passes their rows on, and tells them when to stop.
"""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
import ray.train
from pyarrow import fs
from ray.exceptions import RayActorError
from ray.train.torch import TorchTrainer
from ray.util import remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hybrid_ir.batches import Plan
from hybrid_ir.config import Experiment
from hybrid_ir.data import Store
from hybrid_ir.encoders import TextReader
from hybrid_ir.measure_names import HEADLINE
from hybrid_ir.reports import read_log
from hybrid_ir.storage import open_filesystem
from hybrid_ir.training.checkpoint import Progress
from hybrid_ir.training.decision import decide, is_stale
from hybrid_ir.training.ray_train.causes import cause_of, is_curable
from hybrid_ir.training.ray_train.exchange import Assignment, Monitor
from hybrid_ir.training.ray_train.run_log import open_log
from hybrid_ir.training.ray_train.saved import Saved, keep_only, newest_whole, sealed_in
from hybrid_ir.training.ray_train.trainer import anywhere, make_trainer
from hybrid_ir.types import InputError


def launch(
    experiment: Experiment,
    store: Store,
    plan: Plan,
    model: str,
    reader: TextReader,
    run: Path,
    put_back: Callable[[], None],
    report: Callable[[dict[str, Any]], None],
) -> tuple[Progress, Path | None]:
    """Train, and return the progress of the last checkpoint; once it is finished, also a folder with its encoder.

    What a lost process or node ends is started again from the last checkpoint, `max_failures` times. At each checkpoint
    `put_back` has what `run` holds written to where it belongs.
    """
    settings, out = experiment.train, experiment.out

    def warn(said: str) -> None:
        report({"warning": said})

    def note(row: dict[str, Any]) -> None:
        """To the log; what is no step and no validation says that a checkpoint was saved."""
        if "saved" not in row:
            return write(row)
        try:
            put_back()
        except InputError as error:  # the checkpoint is there, and the next one comes: not worth the training
            warn(f"{error}; the next checkpoint will try again")

    failures = 0
    with stop_signals() as stop_wanted, open_log(run, experiment) as write:
        while True:
            start = newest_whole(out, warn)
            keep_only(out, _worth_keeping(experiment, run, start))
            given = Assignment(
                anywhere(experiment), store, plan, model, reader, _monitor(), _checkpoint(out, start),
                _owes_validation(experiment, store, run, start),
            )  # fmt: skip
            error, stale = _watch(make_trainer(given), given, run, note, report, stop_wanted)
            if error is None:
                break
            if not is_curable(error):
                raise cause_of(error, experiment)
            if stop_wanted.is_set():
                break
            failures += 1
            if failures > settings.max_failures:
                raise error
            warn(f"a process or a node was lost; start {failures} of {settings.max_failures} from the last checkpoint")
    last = newest_whole(out, warn)
    if last is None:
        return Progress(), None
    filesystem, _ = open_filesystem(out)
    with filesystem.open_input_stream(f"{last.path}/progress.json") as file:
        progress = Progress(**json.loads(file.read()))
    progress.finished = progress.finished or stale
    best = _best_validated(experiment, run) if settings.validation == "async" else None
    if best is not None:
        progress.best_step = best[0].done
        progress.best = {key: best[1][key] for key in (*HEADLINE, "AP_mean") if key in best[1]}
    if not progress.finished:
        return progress, None
    return progress, _encoder_of(out, last if best is None else best[0], run / ".last")


def _watch(
    trainer: TorchTrainer,
    given: Assignment,
    run: Path,
    note: Callable[[dict[str, Any]], None],
    report: Callable[[dict[str, Any]], None],
    stop_wanted: threading.Event,
) -> tuple[BaseException | None, bool]:
    """One start of the workers, to its end. Returns what ended it, if it was an error, and whether patience was."""
    settings, errors = given.experiment.train, []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # for the main thread to look at
            errors.append(error)

    def drained() -> list[dict[str, Any]]:
        """Rows that have come, all of them in the log: `report` may raise at the first."""
        try:
            rows = ray.get(given.monitor.drain.remote())
        except RayActorError:  # it was killed: rank 0 hears so too, and ends this start
            return []
        for row in rows:
            note(row)
        return [row for row in rows if "saved" not in row]

    def stop() -> None:
        with suppress(RayActorError):
            ray.get(given.monitor.stop.remote())

    # In a thread, so that Ctrl-C is ours to handle: Ray's own handler would kill the workers at once.
    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    asynchronous, chosen_by = settings.validation == "async", settings.early_stopping_measure
    running, asked, stale = True, False, False
    thread.start()
    try:
        while running:
            thread.join(timeout=0.3)
            running = thread.is_alive()
            if stop_wanted.is_set() and not asked:
                asked = True
                report({"stopping": True})
                stop()
            for row in drained():
                report(row)
                # The workers do not wait to learn that they stopped getting better, so we tell them. What an earlier
                # start that was rolled back had measured at later steps is not this one's.
                if asynchronous and chosen_by in row and not (asked or stale):
                    rows = [each for each in read_log(run / "log.jsonl") or [] if each["step"] <= row["step"]]
                    stale = is_stale(rows, chosen_by, settings.patience)
                    if stale:
                        stop()
    except Exception:  # a sweep ends a trial from within `report`: its workers must not outlive it
        stop()
        thread.join()
        drained()
        raise
    if not errors:
        return None, stale
    # Ray Train's controller gives back what its workers stood in, unless it was killed itself. (A helper of Ray's does,
    # but it asks the dashboard, and there is not always one.) The next start would wait for those CPUs for ever.
    with suppress(RayActorError):
        held: Any = ray.get(given.monitor.held.remote())
        if held is not None:
            remove_placement_group(held)
    return errors[0], stale


def _monitor() -> Any:
    """On the driver's own node: another may be lost."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Monitor).options(num_cpus=0, scheduling_strategy=here).remote()


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


def _checkpoint(out: str, saved: Saved | None) -> ray.train.Checkpoint | None:
    return None if saved is None else ray.train.Checkpoint(saved.path, open_filesystem(out)[0])


def _worth_keeping(experiment: Experiment, run: Path, newest: Saved | None) -> list[Saved]:
    """As many of the newest as are asked for, from the one that is whole on; and the best one, if it was validated."""
    kept = [each for each in sealed_in(experiment.out) if newest and each.done <= newest.done]
    best = _best_validated(experiment, run) if experiment.train.validation == "async" else None
    return kept[: experiment.train.checkpoints_kept] + ([best[0]] if best else [])


def _best_validated(experiment: Experiment, run: Path) -> tuple[Saved, dict[str, Any]] | None:
    """The checkpoint that a validation beside the training found best, the first of equals; and its row of the log."""
    measure = experiment.train.early_stopping_measure
    measured = {row["step"]: row for row in read_log(run / "log.jsonl") or [] if measure in row}
    found = [(each, measured[each.done]) for each in reversed(sealed_in(experiment.out)) if each.done in measured]
    return max(found, key=lambda each: each[1][measure], default=None)


def _owes_validation(experiment: Experiment, store: Store, run: Path, saved: Saved | None) -> bool:
    """Whether a validation beside the training was lost with the workers, of the checkpoint that they go on from."""
    settings = experiment.train
    if saved is None or settings.validation != "async":
        return False
    can_validate = bool(store.manifest["eval"].get("validation"))
    if decide(saved.done, settings, stop=False, can_validate=can_validate).validate is None:
        return False
    measure = settings.early_stopping_measure
    return not any(row["step"] == saved.done and measure in row for row in read_log(run / "log.jsonl") or [])


def _encoder_of(out: str, saved: Saved, folder: Path) -> Path:
    """Copy the encoder of a checkpoint to FOLDER/encoder: the best one that an inline validation found, or its own."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "encoder").mkdir(parents=True)
    own = "best" if any(name.startswith("best/") for name in saved.files) else "encoder"
    fs.copy_files(
        f"{saved.path}/{own}",
        str(folder / "encoder"),
        source_filesystem=open_filesystem(out)[0],
        destination_filesystem=fs.LocalFileSystem(),
    )
    return folder
