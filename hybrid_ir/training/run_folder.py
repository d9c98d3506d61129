"""Whether a run folder holds this training. In: an experiment and its store. Out: finished or not, or a refusal."""

from __future__ import annotations

import json

from pyarrow import fs

from hybrid_ir.config import Experiment, leaves, on_resume
from hybrid_ir.data import Store
from hybrid_ir.storage import open_filesystem
from hybrid_ir.types import InputError


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
    then, now = dict(leaves(before["settings"])), dict(leaves(experiment.model_dump(mode="json")))
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
