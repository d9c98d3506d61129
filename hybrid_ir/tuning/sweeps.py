"""Sweep. In: an experiment and a search space. Out: a table of trials, the best checkpoint. Ray Tune runs it.

    OUT/sweep.json         settings, space, store hash: what this sweep is
    OUT/trials/NAME/       the run folder of each trial, named by what it trains; NAME/test/ has its test measures
    OUT/ray/               Ray Tune's own state, from which a stopped sweep goes on
    OUT/trials.parquet     a row a trial: point, seed, state, cause of failure, measures
    OUT/choice.json        the chosen point, the Pareto set
    OUT/best/              checkpoint of the chosen point, ready for `hybrid-ir index`

Choosing is by validation measures; test measures are reported beside them and choose nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from hybrid_ir.batches import plan_for
from hybrid_ir.config import Experiment
from hybrid_ir.data import open_store
from hybrid_ir.storage import absolute, fetch, replace_folder, write_json
from hybrid_ir.tuning.choice import choose, pareto, point_results
from hybrid_ir.tuning.points import (
    Namer,
    Point,
    by_training,
    enumerate_points,
    middle_point,
    point_label,
    trial_experiment,
)
from hybrid_ir.tuning.search_space import Space
from hybrid_ir.types import InputError, Interrupted

if TYPE_CHECKING:
    from hybrid_ir.tuning.ray_tuner import Show


def list_trials(
    base: Experiment, space: Space, folder: str, name: Namer = by_training
) -> dict[str, tuple[Point, Experiment]]:
    """Every trial of a grid or random search by name, in order; {} for a Bayesian search, whose ranges are checked.

    Each has its run folder in `folder`, by its name. Raises InputError for a point that is not a valid experiment, and
    for rungs that fall on no validation.
    """
    if space.asha is not None:
        _check_asha(space, base)
    trials: dict[str, tuple[Point, Experiment]] = {}
    for point in enumerate_points(space, base, name):
        for seed in space.seeds:
            experiment = trial_experiment(base, point, seed)
            called = name(point, experiment)
            trials[called] = point, experiment.model_copy(update={"out": f"{folder}/{called}"})
    return trials


def check_trials(base: Experiment, space: Space, trials: Mapping[str, tuple[Point, Experiment]]) -> None:
    """Raise InputError, before anything starts, for a trial that the store cannot serve."""
    store = open_store(base.store)
    if not store.manifest["eval"].get("validation"):
        raise InputError(
            f"a sweep chooses by validation, and {base.store} holds nothing out for it; prepare it again with "
            "prepare.validation_fraction above 0"
        )
    for point, experiment in trials.values():
        try:
            plan_for(store, experiment)
        except InputError as error:
            raise InputError(f"{point_label(point)}: {error}") from None
    if not trials:
        plan_for(store, trial_experiment(base, middle_point(space, 0.5), space.seeds[0]))


def _check_asha(space: Space, base: Experiment) -> None:
    every = base.train.evaluate_every
    assert space.asha is not None
    if every is None or space.asha.first % every or space.asha.first >= base.train.steps:
        raise InputError(
            f"asha.first={space.asha.first} must be a multiple of train.evaluate_every (which is {every}) below "
            f"train.steps ({base.train.steps}): trials are compared at validations"
        )


def sweep(
    base: Experiment,
    space: Space,
    out: str,
    folder: Path,
    resources: dict[str, float],
    at_a_time: int | None,
    show: Show,
) -> list[dict[str, Any]]:
    """Run or go on with the sweep at `out` (see `make_tuner`), and return a row for each trial. Ray must be connected.

    Its trials were checked, and `out` was claimed. Trials and Tune write to `out`, this process to `folder` (see
    `storage.written`). A trial that fails is a row with its cause and ends nothing. Raises Interrupted after Ctrl-C,
    and InputError when every trial failed.
    """
    from hybrid_ir.tuning.ray_tuner import make_tuner, rows_of, shown_by

    # Trials stand in other working directories.
    base, out = base.model_copy(update={"store": absolute(base.store)}), absolute(out)
    trials = list_trials(base, space, f"{out}/trials")
    tuner = make_tuner(base, space, trials, out, resources, at_a_time)
    with shown_by(show, trials), _term_is_interrupt():
        results = tuner.fit()
    rows = [row for result in results for row in rows_of(result, trials, space)]
    order = {name: place for place, name in enumerate(trials)}
    rows.sort(key=lambda row: order.get(row["trial"], len(order)))
    left = sum(row["state"] == "unfinished" for row in rows) + max(len(trials) - len(rows), 0)
    if left:
        raise Interrupted(f"stopped with {left} trial{'' if left == 1 else 's'} to go, saved in {out}")
    _write_trials(folder / "trials.parquet", rows)
    if all(row["state"] == "failed" for row in rows):
        raise InputError(f"every trial failed, the first with: {rows[0]['error']}")
    _publish_choice(rows, space, out, folder)
    return rows


def claim(base: Experiment, space: Space, out: Path) -> None:
    """Write what this sweep is to OUT/sweep.json. Raises InputError if the folder is another one's."""
    this = {
        "settings": base.model_dump(mode="json", exclude={"out", "store", "index", "serve"}),
        "space": space.model_dump(mode="json"),
        "store": open_store(base.store).content_hash,
    }
    path = out / "sweep.json"
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key in this if before.get(key) != this[key]]
        if changed:
            raise InputError(
                f"{out} holds a sweep that differs in its {' and '.join(changed)}; choose another --out, or restore "
                "them to go on"
            )
    elif out.is_dir() and any(entry.name != "store" for entry in out.iterdir()):
        raise InputError(f"{out} holds something that is not a sweep, so it is left alone; choose another --out")
    write_json(path, this)


def take_over(trials: Iterable[str], source: Path, out: Path) -> int:
    """Link the finished trials of the sweep at `source` that train the same as these, by name, into OUT/trials.

    Both are folders, OUT is claimed. Returns how many there were. Raises InputError where `source` is no sweep, or is
    one of other data: trials are named by their settings alone.
    """
    try:
        before = json.loads((source / "sweep.json").read_text(encoding="utf-8"))["store"]
    except (OSError, ValueError, TypeError, KeyError):
        raise InputError(f"{source} is not the folder of a study or a sweep: it has no sweep.json") from None
    if before != json.loads((out / "sweep.json").read_text(encoding="utf-8"))["store"]:
        raise InputError(f"the trials of {source} were trained on another store than this one's; they are not the same")
    count = 0
    for name in trials:
        trained, here = source / "trials" / name, out / "trials" / name
        if (trained / "metrics.json").is_file() and not here.exists():
            partial = here.with_name(f".{name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            # A probe measures what its study asks: another one's is not this one's.
            shutil.copytree(
                trained, partial, copy_function=_link, ignore=shutil.ignore_patterns("initial", "probe.json")
            )
            partial.rename(here)
            count += 1
    return count


def _link(source: str, target: str) -> None:
    """A hard link, as no file of a run is ever changed in place; a copy on another file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _write_trials(path: Path, rows: list[dict[str, Any]]) -> None:
    columns: dict[str, list[Any]] = {
        key: [row[key] for row in rows] for key in ("trial", "label", "seed", "state", "error", "steps", "seconds")
    }
    columns["point"] = [json.dumps(row["point"]) for row in rows]
    for split in ("validation", "test"):
        names = dict.fromkeys(name for row in rows for name in row[split])
        columns |= {f"{split}_{name}": [row[split].get(name) for row in rows] for name in names}
    partial = path.with_name(f".{path.name}.partial")
    pq.write_table(pa.table(columns), partial)
    os.replace(partial, path)


def _publish_choice(rows: list[dict[str, Any]], space: Space, out: str, folder: Path) -> None:
    """Write choice.json, and copy the chosen point's best checkpoint to best/, where the last one stays until then."""
    results = point_results(rows)
    chosen = choose(results, space.max_rank_distance)
    if chosen is not None:
        partial = folder / ".best.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(fetch(f"{out}/trials/{chosen.trials[0]}/checkpoint"), partial)
        replace_folder(partial, folder / "best")
    write_json(
        folder / "choice.json",
        {
            "objective": "AP_mean of validation, mean over seeds",
            "max_rank_distance": space.max_rank_distance,
            "chosen": None if chosen is None else {"point": dict(chosen.point), "trial": chosen.trials[0]},
            "pareto": [{"point": dict(r.point), **r.validation} for r in pareto(results)],
        },
    )
    if chosen is None:
        shutil.rmtree(folder / "best", ignore_errors=True)  # of fewer trials, or of another bound


@contextmanager
def _term_is_interrupt() -> Iterator[None]:
    """`ray job stop` sends SIGTERM, which Tune does not know: it is to save and leave as on Ctrl-C.

    Once: `timeout` sends it to the command and to its group, and a second Ctrl-C would have Tune leave without saving.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
