"""How Ray Tune runs a sweep. In: its trials, or where to draw them. Out: a tuner, rows of results, and a live display.

Tune saves its trials, its search and its callbacks, and goes on from them; it does not save its scheduler.
"""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import ray
from optuna.samplers import TPESampler
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.logger import JsonLoggerCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch

from hybrid_ir.config import Experiment
from hybrid_ir.measure_names import VALIDATION
from hybrid_ir.reports import read_log
from hybrid_ir.storage import open_filesystem
from hybrid_ir.training import DRIVER_CPUS, concurrent_trials
from hybrid_ir.tuning.points import Point, drawn_point, point_label, suggest_point, trial_experiment, trial_name
from hybrid_ir.tuning.search_space import Space
from hybrid_ir.types import InputError


class Show(Protocol):
    """Where a sweep reports its trials while it runs: a live table, lines, or nothing."""

    def update(self, trial: str, state: str, result: Mapping[str, Any]) -> None: ...


def make_tuner(
    base: Experiment,
    space: Space,
    trials: Mapping[str, tuple[Point, Experiment]],
    out: str,
    resources: dict[str, float],
    at_a_time: int | None,
) -> tune.Tuner:
    """Ray Tune's run of these trials, or what a stopped one left in OUT/ray to go on from.

    `at_a_time` train together; None: as many as the cluster holds, as it grows and shrinks. `trials` is empty for a
    Bayesian search, whose number is that of its start. Nothing has started before its `fit`.
    """
    experiments = {name: experiment for name, (_, experiment) in trials.items()}

    def experiments_of(config: Mapping[str, Any]) -> list[Experiment]:
        if "trial" in config:
            return [experiments[config["trial"]]]
        todo = [trial_experiment(base, drawn_point(space, config), seed) for seed in space.seeds]
        return [each.model_copy(update={"out": f"{out}/trials/{trial_name(each)}"}) for each in todo]

    class Training(tune.Trainable):
        """Pickled by value, and importing where it runs.

        Training goes on in a thread, and a step of Tune's ends with each validation. Tune ends a trial by `cleanup`,
        and waits for it: so the workers are gone before Tune gives their CPUs away. (A function that Tune runs is ended
        at once, and leaves its workers to a cleaner of Ray's, which may not get to see that its owner died.)
        """

        def setup(self, config: dict[str, Any]) -> None:
            self._results: queue.Queue[Any] = queue.Queue()
            self._stopping = threading.Event()
            self._thread = threading.Thread(target=self._train, args=(experiments_of(config),), daemon=True)
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
            from hybrid_ir.encoders import quiet_libraries
            from hybrid_ir.tuning.ray_trial import Stopped, run_trial

            quiet_libraries()

            def report(row: dict[str, Any]) -> None:
                if self._stopping.is_set():
                    raise Stopped
                if "AP_mean" in row and len(todo) == 1:
                    self._results.put(row)

            try:
                for each in todo:  # validations from before an interruption: the scheduler judges them again
                    for row in read_log(f"{each.out}/log.jsonl") or []:
                        report(row)
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

    trainable = tune.with_resources(Training, {"CPU": DRIVER_CPUS})
    filesystem, inner = open_filesystem(f"{out}/ray")
    stopped = f"{inner}/tune"
    if tune.Tuner.can_restore(stopped, storage_filesystem=filesystem):
        return tune.Tuner.restore(
            stopped, trainable, storage_filesystem=filesystem, resume_unfinished=True, restart_errored=True
        )
    scheduler = None
    if space.asha is not None:
        scheduler = RememberingASHA(
            lambda config: [each.out for each in experiments_of(config)],
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
            search_alg=bayesian_search(space, base.seed) if bayesian else FillingGrid(base, at_a_time),
            scheduler=scheduler,
            num_samples=space.samples or 1 if bayesian else 1,
            max_concurrent_trials=at_a_time or concurrent_trials(base, resources) if bayesian else None,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=inner,
            storage_filesystem=filesystem,
            verbose=0,
            callbacks=[_ShowTrials(), JsonLoggerCallback()],
        ),
    )


class FillingGrid(BasicVariantGenerator):
    """Tune's grid, with as many trials at a time as the cluster holds *now*, for nodes come and go.

    More would not only wait. Their workers would take the CPUs that the data actors of the others need, and none would
    go on.
    """

    def __init__(self, base: Experiment, at_a_time: int | None) -> None:
        self._base, self._at_a_time = base, at_a_time
        super().__init__()

    @property
    def max_concurrent(self) -> int:
        if self._at_a_time is not None:
            return self._at_a_time
        try:
            return concurrent_trials(self._base, ray.cluster_resources())
        except InputError:  # not one, for now: it waits
            return 1

    @max_concurrent.setter
    def max_concurrent(self, most: int) -> None:
        """Tune sets what it read from a stopped sweep."""


class RememberingASHA(ASHAScheduler):
    """ASHA (Li et al. 2020, arXiv:1810.05934) that remembers, after a restart, the trials that had ended before it.

    What they scored at the rungs comes from the logs of their runs, which `runs_of` finds by a trial's config. A trial
    that goes on reports its validations again, and is judged again.
    """

    def __init__(self, runs_of: Callable[[Mapping[str, Any]], list[str]], **settings: Any) -> None:
        super().__init__(**settings)
        self._runs_of = runs_of

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        if trial.status != Trial.TERMINATED:
            return
        for run in self._runs_of(trial.config):
            for row in read_log(f"{run}/log.jsonl") or []:
                if row["step"] <= trial.last_result.get("step", 0):
                    self.on_trial_result(tune_controller, trial, row)


def bayesian_search(space: Space, seed: int) -> Any:
    """Tune's search by Optuna's tree-structured Parzen estimator; `drawn_point` reads what it suggests."""
    define = partial(suggest_point, space)  # Tune pickles it
    return OptunaSearch(space=define, metric="AP_mean", mode="max", sampler=TPESampler(seed=seed))


_showing: list[tuple[Show, Mapping[str, tuple[Point, Experiment]]]] = []
"""Where this process shows its sweep. A display cannot be pickled, and Tune pickles its callbacks with its state."""


@contextmanager
def shown_by(show: Show, trials: Mapping[str, tuple[Point, Experiment]]) -> Iterator[None]:
    """Context in which this process shows its sweep on `show`."""
    _showing.append((show, trials))
    try:
        yield
    finally:
        _showing.pop()


class _ShowTrials(tune.Callback):
    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        _tell(trial, "running", {})

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        _tell(trial, "running", result)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        last = trial.last_result or {}
        _tell(trial, "complete" if "complete" in last else "stopped early", last)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        _tell(trial, "failed", {"error": _failure_cause(trial.get_error())})


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
        state, error = "failed", _failure_cause(result.error)
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


def _failure_cause(error: Any) -> str | None:
    """What the user needs of a failed trial: the last line of its traceback that names an error."""
    if error is None:
        return None
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Interrupt|Exit|Died\w*): ", line)]
    return (named or lines or [type(error).__name__])[-1][:500]
