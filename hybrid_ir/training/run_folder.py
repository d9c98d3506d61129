"""The run folder: what is in it, whether it is this training's, and how its files are read and written."""

from __future__ import annotations

import json
from typing import Any

from pyarrow import fs

from hybrid_ir.config import Experiment
from hybrid_ir.data import Store
from hybrid_ir.storage import open_filesystem
from hybrid_ir.types import InputError

# What may differ between the start of a run and its resumption: where it runs, not what it computes.
FREE_TO_CHANGE = {
    "out", "store", "train.workers", "train.cpus_per_worker", "train.gpus_per_worker", "train.threads_per_worker",
    "train.feed", "train.data_actors", "train.cpus_per_data_actor", "train.max_failures", "train.checkpoint_every",
    "train.trackers", "train.compile", "train.cpus_per_validation", "train.gpus_per_validation",
    "evaluate.precision", "evaluate.token_budget", "evaluate.bootstrap_rounds",
}  # fmt: skip


def is_complete(experiment: Experiment, store: Store) -> bool:
    """Whether `experiment.out` holds this very training, finished. Raises InputError if it holds another one."""
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
    then, now = _flat(before["settings"]), _flat(experiment.model_dump(mode="json"))
    changed = [
        f"{key}: {then.get(key)!r} -> {now.get(key)!r}"
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key)
        and key not in FREE_TO_CHANGE
        and not key.startswith(("prepare.", "index.", "serve."))
    ]
    if changed:
        raise InputError(
            f"{experiment.out} holds a run with other settings ({'; '.join(changed[:4])}); "
            "choose another out=FOLDER, or restore them to resume"
        )
    return state == "complete" and filesystem.get_file_info(f"{inner}/metrics.json").is_file


def _flat(tree: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {path: tree}
    return {k: v for key, value in tree.items() for k, v in _flat(value, f"{path}.{key}" if path else key).items()} or {
        path: {}
    }
