"""Sweep: a search space over an experiment in, `trials.parquet` and the best checkpoint out. Ray Tune runs the trials.

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
import queue
import re
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from hybrid_ir.batches import plan_for
from hybrid_ir.choice import choose, pareto, point_results
from hybrid_ir.config import Experiment
from hybrid_ir.resources import DRIVER_CPUS, concurrent_trials
from hybrid_ir.run_folder import write_json
from hybrid_ir.search_space import (
    Point,
    Range,
    Simplex,
    Space,
    enumerate_points,
    middle_point,
    point_label,
    trial_experiment,
    trial_name,
)
from hybrid_ir.store import open_store
from hybrid_ir.types import InputError, Interrupted

VALIDATION = ("AP_mean", "AP_mono", "AP_cross", "AP_multi", "rank_distance")


class Show(Protocol):
    """Where a sweep reports its trials while it runs: a live table, lines, or nothing."""

    def update(self, trial: str, state: str, result: Mapping[str, Any]) -> None: ...


def list_trials(base: Experiment, space: Space, out: Path) -> dict[str, tuple[Point, Experiment]]:
    """Every trial of a grid or random search by name, in order; {} for a Bayesian search, whose ranges are checked.

    Raises InputError for a point that is not a valid experiment, and for rungs that fall on no validation.
    """
    base = _absolute(base)
    if space.asha is not None:
        _check_asha(space, base)
    trials: dict[str, tuple[Point, Experiment]] = {}
    for point in enumerate_points(space, base):
        for seed in space.seeds:
            experiment = trial_experiment(base, point, seed)
            name = trial_name(experiment)
            folder = str(out.absolute() / "trials" / name)
            trials[name] = point, experiment.model_copy(update={"out": folder})
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


def sweep(base: Experiment, space: Space, out: Path, resources: dict[str, float], show: Show) -> list[dict[str, Any]]:
    """Run or go on with the sweep in `out`, and return a row for each trial. Ray must be connected.

    A trial that fails is a row with its cause and ends nothing. Raises InputError before anything starts for what
    cannot work, Interrupted after Ctrl-C, and InputError when every trial failed.
    """
    base, out = _absolute(base), out.absolute()
    trials = list_trials(base, space, out)
    check_trials(base, space, trials)
    most = concurrent_trials(base, resources)
    claim(base, space, out)
    tuner = _tuner(base, space, trials, out, resources, most)
    with _shown_by(show, trials), _term_is_interrupt():
        results = tuner.fit()
    rows = [row for result in results for row in rows_of(result, trials, space)]
    order = {name: place for place, name in enumerate(trials)}
    rows.sort(key=lambda row: order.get(row["trial"], len(order)))
    left = sum(row["state"] == "unfinished" for row in rows) + max(len(trials) - len(rows), 0)
    if left:
        raise Interrupted(f"stopped with {left} trials to go, saved in {out}")
    _write_trials(out / "trials.parquet", rows)
    if all(row["state"] == "failed" for row in rows):
        raise InputError(f"every trial failed, the first with: {rows[0]['error']}")
    _publish_choice(rows, space, out)
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
                f"{out} holds a sweep with another {' and '.join(changed)}; choose another --out, or restore them to go on"
            )
    elif out.is_dir() and any(entry.name != "store" for entry in out.iterdir()):
        raise InputError(f"{out} holds something that is not a sweep, so it is left alone; choose another --out")
    write_json(path, this)


def _tuner(
    base: Experiment,
    space: Space,
    trials: Mapping[str, tuple[Point, Experiment]],
    out: Path,
    resources: dict[str, float],
    most: int,
) -> Any:
    from ray import tune
    from ray.tune.logger import JsonLoggerCallback

    experiments = {name: experiment for name, (_, experiment) in trials.items()}

    class Trial(tune.Trainable):
        """Pickled by value, and importing where it runs.

        Training goes on in a thread, and a step of Tune's ends with each validation. Tune ends a trial by `cleanup`, and
        waits for it: so the workers are gone before Tune gives their CPUs away. (A function that Tune runs is ended at
        once, and leaves its workers to a cleaner of Ray's, which may not get to see that its owner died.)
        """

        def setup(self, config: dict[str, Any]) -> None:
            self._results: queue.Queue[Any] = queue.Queue()
            self._stopping = threading.Event()
            if "trial" in config:
                todo = [experiments[config["trial"]]]
            else:
                todo = [trial_experiment(base, drawn_point(space, config), seed) for seed in space.seeds]
                todo = [e.model_copy(update={"out": str(out / "trials" / trial_name(e))}) for e in todo]
            self._thread = threading.Thread(target=self._train, args=(todo,), daemon=True)
            self._thread.start()

        def step(self) -> dict[str, Any]:
            result = self._results.get()
            if isinstance(result, BaseException):
                raise result
            return result

        def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
            return {}  # the run folder has all that a trial goes on from

        def load_checkpoint(self, checkpoint: Any) -> None:
            pass

        def cleanup(self) -> None:
            self._stopping.set()
            self._thread.join()

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.cleanup()
            self.setup(new_config)
            return True

        def _train(self, todo: list[Experiment]) -> None:
            from hybrid_ir.terminal import quiet_libraries
            from hybrid_ir.trial import Stopped, run_trial

            quiet_libraries()

            def report(row: dict[str, Any]) -> None:
                if self._stopping.is_set():
                    raise Stopped
                if "AP_mean" in row and len(todo) == 1:
                    self._results.put(row)

            try:
                done = [
                    {**run_trial(each, resources, report), "trial": Path(each.out).name, "seed": each.seed}
                    for each in todo
                ]
            except Stopped:
                return
            except Exception as error:
                self._results.put(error)
                return
            mean = sum(row["AP_mean"] for row in done) / len(done)
            self._results.put({**done[-1], "AP_mean": mean, "complete": done, "done": True})

    trainable = tune.with_resources(Trial, {"CPU": DRIVER_CPUS})
    folder = out / "ray" / "tune"
    if tune.Tuner.can_restore(str(folder)):
        return tune.Tuner.restore(str(folder), trainable=trainable, resume_unfinished=True, restart_errored=True)
    scheduler = None
    if space.asha is not None:
        from ray.tune.schedulers import ASHAScheduler

        scheduler = ASHAScheduler(
            time_attr="step",
            metric="AP_mean",
            mode="max",
            max_t=base.train.steps + 1,  # Tune ends a trial that gets there, before it has published
            grace_period=space.asha.first,
            reduction_factor=space.asha.factor,
        )
    bayesian = space.search == "bayesian"
    return tune.Tuner(
        trainable,
        param_space={} if bayesian else {"trial": tune.grid_search(list(trials))},
        tune_config=tune.TuneConfig(
            search_alg=bayesian_search(space, base.seed) if bayesian else None,
            scheduler=scheduler,
            num_samples=space.samples or 1 if bayesian else 1,
            max_concurrent_trials=most,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune", storage_path=str(out / "ray"), verbose=0, callbacks=[_show_callback(), JsonLoggerCallback()]
        ),
    )


def bayesian_search(space: Space, seed: int) -> Any:
    """Tune's search by Optuna's tree-structured Parzen estimator; `drawn_point` reads what it suggests."""
    from optuna.samplers import TPESampler
    from ray.tune.search.optuna import OptunaSearch

    define = partial(_suggest, space)  # Tune pickles it
    return OptunaSearch(space=define, metric="AP_mean", mode="max", sampler=TPESampler(seed=seed))


def _suggest(space: Space, trial: Any) -> None:
    for path, axis in space.axes[0].items():
        if isinstance(axis, Simplex):
            for kind in axis.simplex:
                trial.suggest_float(f"{path}/{kind}", 0.0, 1.0)
        elif isinstance(axis, Range):
            trial.suggest_float(path, 0.0, 1.0)
        else:
            trial.suggest_categorical(path, range(len(axis)))


def drawn_point(space: Space, config: Mapping[str, Any]) -> dict[str, Any]:
    """The point of a Bayesian search's draw: a number in [0, 1] for a range and for each kind of a mix, a place in a list."""
    point: dict[str, Any] = {}
    for path, axis in space.axes[0].items():
        drawn = config[path]
        if isinstance(axis, Simplex):
            point[path] = axis.draw([drawn[kind] for kind in axis.simplex])
        else:
            point[path] = axis.at(drawn) if isinstance(axis, Range) else axis[drawn]
    return point


_showing: list[tuple[Show, Mapping[str, tuple[Point, Experiment]]]] = []
"""Where this process shows its sweep. Tune pickles its callbacks with the rest of its state, and a display cannot be."""


@contextmanager
def _shown_by(show: Show, trials: Mapping[str, tuple[Point, Experiment]]) -> Iterator[None]:
    _showing.append((show, trials))
    try:
        yield
    finally:
        _showing.pop()


def _show_callback() -> Any:
    from ray import tune

    class ShowTrials(tune.Callback):
        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            _tell(trial, "running", {})

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
            _tell(trial, "running", result)

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            last = trial.last_result or {}
            _tell(trial, "complete" if "complete" in last else "stopped early", last)

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            _tell(trial, "failed", {"error": _cause(trial.get_error())})

    return ShowTrials()


def _tell(trial: Any, state: str, result: Mapping[str, Any]) -> None:
    if not _showing:
        return
    show, trials = _showing[-1]
    name = trial.config.get("trial")
    label = f"{point_label(trials[name][0])} seed={trials[name][1].seed}" if name in trials else trial.trial_id
    show.update(label, state, result)


def rows_of(result: Any, trials: Mapping[str, tuple[Point, Experiment]], space: Space) -> list[dict[str, Any]]:
    """Rows of one of Tune's results: one, or one a seed for a Bayesian search."""
    metrics = result.metrics or {}
    done, error = metrics.get("complete"), None
    if result.error is not None:
        state, error = "failed", _cause(result.error)
    else:
        state = "complete" if done else "stopped early" if metrics.get("done") else "unfinished"
    name = result.config.get("trial", "")
    point = trials[name][0] if name in trials else drawn_point(space, result.config)
    return [
        {
            "trial": each.get("trial") or name,
            "label": point_label(point),
            "point": dict(point),
            "seed": trials[name][1].seed if name in trials else each.get("seed"),
            "state": state,
            "error": error,
            "steps": each.get("step"),
            "seconds": each.get("seconds"),
            "validation": {key: each[key] for key in VALIDATION if each.get(key) is not None},
            "test": dict(each.get("test") or {}),
        }
        for each in (done or [metrics])
    ]


def _cause(error: Any) -> str | None:
    """What the user needs of a failed trial: the last line of its traceback that names an error."""
    if error is None:
        return None
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Interrupt|Exit|Died\w*): ", line)]
    return (named or lines or [type(error).__name__])[-1][:500]


def _write_trials(path: Path, rows: list[dict[str, Any]]) -> None:
    columns: dict[str, list[Any]] = {
        key: [row[key] for row in rows] for key in ("trial", "label", "seed", "state", "error", "steps", "seconds")
    }
    columns["point"] = [json.dumps(row["point"]) for row in rows]
    for split in ("validation", "test"):
        names = dict.fromkeys(name for row in rows for name in row[split])
        columns |= {f"{split}_{name}": [row[split].get(name) for row in rows] for name in names}
    pq.write_table(pa.table(columns), path)


def _publish_choice(rows: list[dict[str, Any]], space: Space, out: Path) -> None:
    """Write choice.json, and copy the chosen point's best checkpoint to best/."""
    results = point_results(rows)
    chosen = choose(results, space.max_rank_distance)
    shutil.rmtree(out / "best", ignore_errors=True)
    if chosen is not None:
        shutil.copytree(out / "trials" / chosen.trials[0] / "checkpoint", out / "best")
    write_json(
        out / "choice.json",
        {
            "objective": "AP_mean of validation, mean over seeds",
            "max_rank_distance": space.max_rank_distance,
            "chosen": None if chosen is None else {"point": dict(chosen.point), "trial": chosen.trials[0]},
            "pareto": [{"point": dict(r.point), **r.validation} for r in pareto(results)],
        },
    )


def _absolute(base: Experiment) -> Experiment:
    """Trials stand in other working directories."""
    if "://" in base.store:
        return base
    return base.model_copy(update={"store": str(Path(base.store).absolute())})


@contextmanager
def _term_is_interrupt() -> Iterator[None]:
    """`ray job stop` sends SIGTERM, which Tune does not know: it is to save and leave as on Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: os.kill(os.getpid(), signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
