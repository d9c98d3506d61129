"""Train. In: a store and an experiment. Out: a run folder. Checks everything first, then launches Ray Train.

    RUN/manifest.json    settings, what they mean for the encoder, store hash, versions, state (running, ...)
    RUN/initial/         the encoder before training, when a preset made it
    RUN/log.jsonl        a row every half second or so, a row a validation
    RUN/tensorboard/     the same rows for TensorBoard; other trackers have places of their own
    RUN/ray/             Ray Train's own storage: the resumable checkpoints, until the run is complete
    RUN/checkpoint/      the encoder that is kept, a sentence-transformers folder with a model card; under LoRA, with
                         `adapter/` in it
    RUN/ledger.json      asked and realised share of every kind and language pair
    RUN/metrics.json     validation measures of the kept encoder, loss, speed

Ctrl-C (or SIGTERM, which `ray job stop` sends) ends the step, saves and leaves; the same command resumes, on any number
of workers. On several nodes RUN must be a folder that all of them see.
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import hybrid_ir
from hybrid_ir.batches import Plan, check_dimension, lexicon_for, plan_for, uneven_epochs
from hybrid_ir.config import Experiment
from hybrid_ir.data import Store, open_store
from hybrid_ir.encoders import TextReader, check_peft
from hybrid_ir.storage import fetch, write_json, written_in_steps
from hybrid_ir.training.checkpoint import load_model
from hybrid_ir.training.initial_model import describe_encoder, initial_model
from hybrid_ir.training.publish import publish
from hybrid_ir.training.ray_train.saved import check_format, remove_all
from hybrid_ir.training.ray_train.tracking import check_trackers
from hybrid_ir.training.resources import check_resources
from hybrid_ir.training.run_folder import answering, is_complete
from hybrid_ir.training.validation import check_validation
from hybrid_ir.types import InputError, Interrupted

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
    if experiment.encoder.lora.rank is not None:
        check_peft()
    check_resources(experiment, resources)
    check_validation(experiment, store)
    with answering(experiment.out):
        if is_complete(experiment, store):
            remove_all(experiment.out)  # which the run that completed it may not have come to
            return json.loads(Path(fetch(f"{experiment.out}/metrics.json")).read_text(encoding="utf-8"))
        check_format(experiment.out)
        with written_in_steps(experiment.out, leave=("ray", ".last")) as (run, put_back):
            return _train(experiment, store, plan, run, put_back, report)


def _train(
    experiment: Experiment, store: Store, plan: Plan, run: Path, put_back: Callable[[], None], report: Report
) -> dict[str, Any]:
    # Not at the top: Ray reads its settings when it is imported, and the session sets some.
    from hybrid_ir.training.ray_train.launcher import launch

    made = [folder for folder in (run, *run.parents) if not folder.exists()]
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write the run to {run}: {error.strerror}; choose another out=FOLDER") from error
    manifest, claimed = _manifest(experiment, store), (run / "manifest.json").exists()
    # The claim comes first: whatever is killed from here on, the same command finds a run and goes on.
    write_json(run / "manifest.json", {**manifest, "state": "running"})
    put_back()
    try:
        name = initial_model(experiment, store, run, put_back)
        model = load_model(experiment, name, torch.device("cpu"))
        check_dimension(store, experiment, model.get_embedding_dimension())
        manifest["encoder"] = encoder = describe_encoder(experiment, model)
    except InputError:
        if not claimed:  # nothing was trained: other settings may have the folder
            (run / "manifest.json").unlink()
            for folder in ("initial", ".initial.partial"):
                shutil.rmtree(run / folder, ignore_errors=True)
            for folder in made:
                with suppress(OSError):  # somebody put something there meanwhile
                    folder.rmdir()
        raise
    report({"encoder": encoder})
    if warning := uneven_epochs(plan, experiment.train.steps):
        report({"warning": warning})
    write_json(run / "manifest.json", {**manifest, "state": "running"})
    put_back()
    progress, checkpoint = launch(experiment, store, plan, name, TextReader.of(model), run, put_back, report)
    if checkpoint is None or not progress.finished:
        write_json(run / "manifest.json", {**manifest, "state": "stopped", "steps": progress.done})
        raise Interrupted(f"stopped after step {progress.done} of {experiment.train.steps}, saved in {experiment.out}")
    metrics = publish(experiment, encoder, store, plan, run, progress, checkpoint)
    write_json(run / "manifest.json", {**manifest, "state": "complete", "steps": progress.done})
    put_back()
    remove_all(experiment.out)
    return metrics


def _manifest(experiment: Experiment, store: Store) -> dict[str, Any]:
    libraries = ("ray", "torch", "transformers", "sentence-transformers")
    return {
        "version": hybrid_ir.__version__,
        "settings": experiment.model_dump(mode="json"),
        "store": {"path": experiment.store, "content_hash": store.content_hash},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in libraries}},
    }
