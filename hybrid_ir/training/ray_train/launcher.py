"""Train: a store in, a run folder out. Checks everything first, then launches Ray Train and keeps its books.

    RUN/manifest.json    settings, store hash, versions, state (running, stopped, complete)
    RUN/initial/         the encoder before training, when a preset made it
    RUN/log.jsonl        a row every half second or so, a row a validation; the trackers (RUN/tensorboard/, ...) have the same
    RUN/ray/             Ray Train's own storage: the resumable checkpoints
    RUN/checkpoint/      the encoder that is kept, a sentence-transformers folder with a model card
    RUN/ledger.json      asked and realised share of every kind and language pair
    RUN/metrics.json     validation measures of the kept encoder, loss, speed

Ctrl-C (or SIGTERM, which `ray job stop` sends) ends the step, saves and leaves; the same command resumes, on any number of
workers. On several nodes RUN must be a folder that all of them see.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import hybrid_ir
from hybrid_ir.batches import Plan, lexicon_for, make_ledger, plan_for
from hybrid_ir.config import Experiment, leaf_texts
from hybrid_ir.data import Store, open_store
from hybrid_ir.encoders import PRESETS, create_encoder, load_encoder, model_card, resolve_precision
from hybrid_ir.reports import read_log
from hybrid_ir.storage import fetch, is_uri, open_filesystem, put, write_json, written
from hybrid_ir.training.resources import check_resources
from hybrid_ir.training.run_folder import is_complete
from hybrid_ir.training.tracking import check_trackers, open_trackers, tracked
from hybrid_ir.types import InputError, Interrupted

TOKENIZER_TEXTS = 200_000
MEASURED = ("AP_mono", "AP_cross", "AP_multi", "rank_distance")


Report = Callable[[dict[str, Any]], None]


def train(experiment: Experiment, resources: dict[str, float], report: Report = lambda row: None) -> dict[str, Any]:
    """Run or resume the training of `experiment.out`, and return the content of its metrics.json.

    Ray must be connected; `resources` are its cluster's. `report` is called with each log row. Raises InputError before
    anything starts for what cannot work, and Interrupted after a stop that saved.
    """
    store = open_store(experiment.store)
    plan = plan_for(store, experiment)
    lexicon_for(experiment, store, plan)
    check_trackers(experiment.train.trackers)
    check_resources(experiment, resources)
    if is_complete(experiment, store):
        return json.loads(Path(fetch(f"{experiment.out}/metrics.json")).read_text(encoding="utf-8"))
    with written(experiment.out, leave=("ray", ".last")) as run:
        return _train(experiment, store, plan, run, report)


def _train(experiment: Experiment, store: Store, plan: Plan, run: Path, report: Report) -> dict[str, Any]:
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write the run to {run}: {error.strerror}; choose another out=FOLDER") from error
    model = _initial_model(experiment, store, run)
    manifest = _manifest(experiment, store)
    write_json(run / "manifest.json", {**manifest, "state": "running"})
    progress, folder = _fit(experiment, store, plan, model, run, report)
    if progress is None or not progress["finished"]:
        write_json(
            run / "manifest.json", {**manifest, "state": "stopped", "steps": progress["done"] if progress else 0}
        )
        raise Interrupted(
            f"stopped after step {progress['done'] if progress else 0} of {experiment.train.steps}, "
            f"saved in {experiment.out}"
        )
    assert folder is not None
    metrics = _publish(experiment, store, plan, run, progress, Path(folder), model)
    write_json(run / "manifest.json", {**manifest, "state": "complete", "steps": progress["done"]})
    return metrics


def _initial_model(experiment: Experiment, store: Store, run: Path) -> str:
    """Folder or hub name of the encoder to start from; a preset is made once and kept."""
    section = experiment.encoder
    if section.name not in PRESETS:
        # Workers stand in another working directory.
        return str(Path(section.name).absolute()) if Path(section.name).exists() else section.name
    folder = run / "initial"
    if not (folder / "config.json").is_file():
        partial = run / ".initial.partial"
        shutil.rmtree(partial, ignore_errors=True)
        create_encoder(
            section.name,
            sample_texts(store, TOKENIZER_TEXTS),
            partial,
            vocabulary=section.vocabulary,
            max_tokens=section.max_tokens,
            seed=experiment.seed,
        )
        os.replace(partial, folder)
    if is_uri(experiment.out):  # workers on other nodes load it from there
        put(folder, f"{experiment.out}/initial")
        return f"{experiment.out}/initial"
    return str(folder.absolute())


def sample_texts(store: Store, limit: int) -> Iterator[str]:
    """Up to `limit` training texts, the same number from every language of every partition (the store is shuffled)."""
    columns = [(i, f"{half}_{x}") for i, p in enumerate(store.partitions) for x in p.languages for half in "qp"]
    each = max(1, limit // len(columns))
    for partition, column in columns:
        yield from store.take(partition, np.arange(min(each, store.partitions[partition].rows)), column)


def _manifest(experiment: Experiment, store: Store) -> dict[str, Any]:
    import ray
    import sentence_transformers
    import torch
    import transformers

    device = "cuda" if experiment.train.gpus_per_worker else "cpu"
    return {
        "version": hybrid_ir.__version__,
        "settings": experiment.model_dump(mode="json"),
        "store": {"path": experiment.store, "content_hash": store.content_hash},
        "precision": resolve_precision(experiment.train.precision, device),
        "versions": {
            "python": platform.python_version(),
            "ray": ray.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "sentence-transformers": sentence_transformers.__version__,
        },
    }


def _fit(
    experiment: Experiment, store: Store, plan: Plan, model: str, run: Path, report: Report
) -> tuple[dict[str, Any] | None, str | None]:
    """Progress and folder of the last checkpoint; (None, None) if it was stopped before the first."""
    import ray
    import ray.train
    from ray.train.torch import TorchTrainer

    from hybrid_ir.training.ray_train.job import Job, Monitor
    from hybrid_ir.training.ray_train.process_group import NodeTorchConfig

    def enter_worker(job: Job) -> None:
        # Pickled by value, and importing where it runs: the controller unpickles it too, and would spend ten seconds of a
        # small machine on importing what only workers need.
        from hybrid_ir.training.ray_train.worker import train_worker

        train_worker(job)

    def enter_validation(checkpoint: ray.train.Checkpoint, **_: Any) -> dict[str, float]:
        from hybrid_ir.training.ray_train.worker import validate_checkpoint

        return validate_checkpoint(checkpoint, job)

    settings = experiment.train
    section = experiment.encoder
    tokenizer = load_encoder(model, pooling=section.pooling, max_tokens=section.max_tokens).tokenizer
    monitor: Any = ray.remote(Monitor).options(num_cpus=0).remote()
    gpu = settings.gpus_per_worker > 0
    per_worker = {"CPU": settings.cpus_per_worker, **({"GPU": settings.gpus_per_worker} if gpu else {})}
    job = Job(_anywhere(experiment), store, plan, model, tokenizer, monitor)
    asynchronous = settings.validation == "async"
    chosen_by = settings.early_stopping_measure
    filesystem, inner = open_filesystem(experiment.out)
    resources = {"num_cpus": settings.cpus_per_validation, "num_gpus": settings.gpus_per_validation}
    trainer = TorchTrainer(
        enter_worker,  # pyright: ignore[reportArgumentType]
        train_loop_config=job,  # type: ignore[arg-type]
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
                num_to_keep=2, checkpoint_score_attribute=chosen_by if asynchronous else None
            ),
        ),
        validation_config=ray.train.ValidationConfig(fn=enter_validation, ray_remote_kwargs=resources)
        if asynchronous
        else None,
    )
    outcome: list[Any] = []

    def fit() -> None:
        try:
            outcome.append(trainer.fit())
        except BaseException as error:  # raised again below, in the main thread
            outcome.append(error)

    log = _Log(run, experiment)
    # In a thread, so that Ctrl-C is ours to handle: Ray's own handler would kill the workers at once.
    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    with _stop_signals() as stop_wanted, log:
        thread.start()
        asked = stale = False
        try:
            while thread.is_alive():
                thread.join(timeout=0.3)
                if stop_wanted.is_set() and not asked:
                    asked = True
                    report({"stopping": True})
                    ray.get(monitor.stop.remote())
                for row in ray.get(monitor.drain.remote()):
                    log.write(row)
                    report(row)
                    # The workers do not wait to learn that they stopped getting better, so we tell them.
                    if asynchronous and chosen_by in row and not (asked or stale):
                        stale = is_stale(read_log(run / "log.jsonl") or [], chosen_by, settings.patience)
                        if stale:
                            ray.get(monitor.stop.remote())
        except BaseException:  # a sweep ends a trial from within `report`: its workers must not outlive it
            ray.get(monitor.stop.remote())
            thread.join()
            raise
        for row in ray.get(monitor.drain.remote()):
            log.write(row)
            report(row)
    result = outcome[0]
    if isinstance(result, BaseException):
        raise _cause(result)
    if result.checkpoint is None:
        return None, None
    shutil.rmtree(run / ".last", ignore_errors=True)
    folder = result.checkpoint.to_directory(str(run / ".last"))
    progress = json.loads((Path(folder) / "progress.json").read_text(encoding="utf-8"))
    if asynchronous:
        progress["finished"] = progress["finished"] or stale
        _take_best(progress, result.best_checkpoints or [], Path(folder), chosen_by)
    return progress, folder


def is_stale(rows: Sequence[Mapping[str, Any]], measure: str, patience: int | None) -> bool:
    """Whether the last `patience` validations among a run's log rows brought nothing better. Null patience = never."""
    values = [row[measure] for row in rows if measure in row]
    return patience is not None and bool(values) and len(values) - 1 - values.index(max(values)) >= patience


def _take_best(
    progress: dict[str, Any], checkpoints: Sequence[tuple[Any, dict[str, Any]]], folder: Path, measure: str
) -> None:
    """Put the encoder of the best validated checkpoint where an inline validation would have left it."""
    validated = [(metrics[measure], checkpoint, metrics) for checkpoint, metrics in checkpoints if measure in metrics]
    if not validated:
        return
    _, checkpoint, metrics = max(validated, key=lambda each: each[0])
    progress["best_step"] = metrics["step"]
    progress["best"] = {key: metrics[key] for key in (*MEASURED, "AP_mean") if key in metrics}
    with checkpoint.as_directory() as best:
        shutil.copytree(Path(best) / "encoder", folder / "best", dirs_exist_ok=True)


def _anywhere(experiment: Experiment) -> Experiment:
    """The experiment for processes that stand in other working directories: its lexicon by its full path."""
    batch = experiment.batch
    if batch.lexicon == "cldr":
        return experiment
    path = str(Path(batch.lexicon).absolute())
    return experiment.model_copy(update={"batch": batch.model_copy(update={"lexicon": path})})


def _cause(error: BaseException) -> BaseException:
    """What the user can mend, dug out of Ray's wrapping; else the error itself."""
    from ray.train import WorkerGroupError

    todo: list[Any] = [error]
    while todo:
        e = todo.pop()
        if isinstance(e, InputError):
            return InputError(str(e))
        if isinstance(e, FloatingPointError):
            return InputError(f"training diverged: {e}")
        if isinstance(e, WorkerGroupError):
            todo += list(e.worker_failures.values())
        todo += [
            x
            for x in (getattr(e, "cause", None), getattr(e, "base_exc", None), e.__cause__)
            if isinstance(x, BaseException)
        ]
    return error


class _stop_signals:
    """Context in which the first SIGINT or SIGTERM sets an event, and a second raises KeyboardInterrupt."""

    def __enter__(self) -> threading.Event:
        event = threading.Event()

        def handle(number: int, frame: Any) -> None:
            if event.is_set():
                raise KeyboardInterrupt
            event.set()

        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return event

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class _Log:
    """RUN/log.jsonl, the trackers that were asked for, and Ray's metrics."""

    def __init__(self, run: Path, experiment: Experiment) -> None:
        self._run, self._experiment = run, experiment

    def __enter__(self) -> _Log:
        from hybrid_ir.training.ray_train.gauges import Gauges

        self._file = (self._run / "log.jsonl").open("a", encoding="utf-8")
        settings = leaf_texts(self._experiment.model_dump(mode="json", exclude={"index", "serve"}))
        asked = open_trackers(self._experiment.train.trackers, self._run, settings)
        self._trackers = [*asked, Gauges(self._run.name)]
        return self

    def write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for tracker in self._trackers:
            tracker.write(row["step"], tracked(row))

    def __exit__(self, *_: Any) -> None:
        self._file.close()
        for tracker in self._trackers:
            tracker.close()


def _publish(
    experiment: Experiment, store: Store, plan: Plan, run: Path, progress: dict[str, Any], folder: Path, model: str
) -> dict[str, Any]:
    """Write what a finished run leaves, the checkpoint in one move, metrics last."""
    ledger = make_ledger(plan, progress)
    write_json(run / "ledger.json", ledger)
    kept = folder / "best" if (folder / "best").is_dir() else folder / "encoder"
    seconds = max(progress["seconds"], 1e-9)
    metrics = {
        "validation": progress["best"],
        "best_step": progress["best_step"] or progress["done"],
        "steps": progress["done"],
        "loss": progress["loss"],
        "pairs_per_s": progress["done"] * plan.batch_size / seconds,
        "input_wait": progress["waited_s"] / seconds,
        "seconds": progress["seconds"],
        "startup_s": progress["startup_s"],
        "peak_memory_mb": progress["peak_memory_mb"],
    }
    languages = sorted({x for pairs in plan.asked().values() for pair in pairs for x in pair})
    encoder = load_encoder(str(kept))
    (kept / "README.md").write_text(
        model_card(
            name=run.name,
            base=experiment.encoder.name,
            languages=languages,
            store=store.manifest,
            ledger=ledger,
            settings=experiment.model_dump(mode="json"),
            metrics=metrics,
            dimension=encoder.get_embedding_dimension() or 0,
        ),
        encoding="utf-8",
    )
    shutil.rmtree(run / "checkpoint", ignore_errors=True)
    os.replace(kept, run / "checkpoint")
    shutil.rmtree(folder, ignore_errors=True)
    write_json(run / "metrics.json", metrics)
    return metrics
