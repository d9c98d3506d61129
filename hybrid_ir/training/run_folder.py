"""The run folder: whether it holds this training, and what is said when it is lost.

In: an experiment and its store. Out: finished or not, or a refusal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyarrow import fs

from hybrid_ir.config import Experiment, leaves, on_resume, parse_experiment
from hybrid_ir.data import Store
from hybrid_ir.storage import is_uri, open_filesystem
from hybrid_ir.types import InputError, one_line


def is_complete(experiment: Experiment, store: Store) -> bool:
    """Whether `experiment.out` holds this very training, finished. Raises InputError if it holds another one."""
    with answering(experiment.out):
        return _is_complete(experiment, store)


def _is_complete(experiment: Experiment, store: Store) -> bool:
    path = f"{experiment.out}/manifest.json"
    filesystem, inner = open_filesystem(experiment.out)
    if not filesystem.get_file_info(f"{inner}/manifest.json").is_file:
        if filesystem.get_file_info(fs.FileSelector(inner, allow_not_found=True)):
            raise InputError(
                f"{experiment.out} holds something that is not a run, so it is left alone; choose another out=FOLDER"
            )
        return False
    try:
        before = json.loads(filesystem.open_input_stream(f"{inner}/manifest.json").read())
        trained_on = before["store"]["content_hash"]
        state = before["state"]
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{path} is not the manifest of a run, or is damaged; choose another out=FOLDER") from None
    if trained_on != store.content_hash:
        raise InputError(
            f"{experiment.out} was trained on another store (content {trained_on[:12]}, "
            f"{experiment.store} has {store.content_hash[:12]}); choose another out=FOLDER or the store it came from"
        )
    then, now = _by_weights(_with_defaults(before["settings"])), _by_weights(experiment.model_dump(mode="json"))
    changed = [
        f"{key}: {then.get(key)!r} -> {now.get(key)!r}"
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key) and on_resume(Experiment, key) != "free"
    ]
    if changed:
        raise InputError(
            f"{experiment.out} holds a run with other settings ({'; '.join(changed[:4])}); "
            "choose another out=FOLDER, or restore them to resume"
        )
    return state == "complete" and filesystem.get_file_info(f"{inner}/metrics.json").is_file


def _with_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run, with those that its version did not have yet at their defaults, which do as it did."""
    defaults = Experiment().model_dump(mode="json")
    return {
        key: default | settings.get(key, {}) if isinstance(default, dict) else settings.get(key, default)
        for key, default in defaults.items()
    }


def _by_weights(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings by their dotted paths, with the mix as its weights: alpha=1 has another name, monolingual."""
    mix = parse_experiment({"batch": {key: settings["batch"].get(key) for key in ("alpha", "mix")}}, "a run").batch
    weights = {kind: round(weight, 9) for kind, weight in mix.weights.items()}
    batch = {key: value for key, value in settings["batch"].items() if key != "alpha"} | {"mix": weights}
    return dict(leaves({**settings, "batch": batch}))


@contextmanager
def answering(out: str) -> Iterator[None]:
    """Raises InputError where the storage of a run at a URI does not answer."""
    try:
        yield
    except OSError as error:
        # What pyarrow raises. What goes wrong on a disk of this machine is a subclass.
        raise (storage_lost(out, error) if is_uri(out) and type(error) is OSError else error) from None


def storage_lost(out: str, error: BaseException) -> InputError:
    """What is said then."""
    return InputError(
        f"{out} cannot be read or written ({one_line(error)}); once it answers again, the same command goes on from "
        "the last checkpoint that is there"
    )
