"""The loop around its steps, without Ray: what a stop leaves in a step that validates, and what goes on from there."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from hybrid_ir.config.experiment import Experiment, Train
from hybrid_ir.training import figures, loop
from hybrid_ir.training.checkpoint import Progress

EXPERIMENT = Experiment(train=Train(steps=6, evaluate_every=2))


class Recorder:
    """Wants a stop in the step that ends with `stop` done."""

    def __init__(self, state, stop: int) -> None:
        self._state, self._stop = state, stop

    def stop_wanted(self) -> bool:
        return self._state.progress.done >= self._stop - 1

    def step(self, row, **_) -> None:
        pass

    def restart_clock(self) -> None:
        pass

    def validation(self, step, measures) -> None:
        self._state.validated.append(step)


@pytest.fixture
def trained(monkeypatch):
    """Runs the loop from `done` steps on, each of them made light; returns the state that it leaves."""
    monkeypatch.setattr(loop, "backward", lambda *_: torch.tensor(1.0))
    monkeypatch.setattr(loop, "update", lambda *_: torch.tensor(1.0))
    monkeypatch.setattr(loop, "validate", lambda *_: {"AP_mean": 0.5})
    monkeypatch.setattr(loop, "save_encoder", lambda *_: None)

    def run(progress: Progress, stop: int = 99, experiment: Experiment = EXPERIMENT, rank: int = 0, workers: int = 1):
        state = SimpleNamespace(
            progress=progress, model=SimpleNamespace(device=torch.device("cpu")),
            embedder=torch.nn.Identity(),
            optimizer=None, best=None, validated=[], saved=[],
        )  # fmt: skip
        batch = SimpleNamespace(size=2)
        monkeypatch.setattr(Progress, "count", lambda progress, _: setattr(progress, "done", progress.done + 1))
        feed = type("Feed", (), {"seconds": 0.0, "__next__": lambda self: batch})()

        def save(measure):
            state.saved.append((state.progress.done, state.progress.finished))

        loop.train_steps(experiment, state, feed, SimpleNamespace(), Recorder(state, stop), save, rank, workers)
        return state

    return run


def test_a_stop_in_the_last_step_does_not_keep_a_run_from_finishing(trained):
    state = trained(Progress(done=4), stop=6)
    assert state.saved == [(6, True)]
    assert state.validated == [6]


def test_a_run_that_was_left_after_its_last_step_is_finished_when_it_goes_on(trained):
    state = trained(Progress(done=6))
    assert state.saved == [(6, True)]
    assert state.validated == [6]


def test_a_validation_that_a_stop_skipped_is_made_up_before_the_next_step(trained):
    state = trained(Progress(), stop=4)
    assert state.saved == [(2, False), (4, False)]
    assert state.validated == [2]
    again = trained(state.progress)
    assert again.validated == [4, 6]
    assert not again.progress.owes_validation
    assert again.saved == [(4, False), (6, True)]


def test_a_stop_in_a_step_without_a_validation_owes_none(trained):
    state = trained(Progress(), stop=3)
    assert state.validated == [2]
    assert trained(state.progress).validated == [4, 6]


# By the clock


def by_the_clock(minutes: float | None) -> Experiment:
    return Experiment(train=Train(steps=12, checkpoint_minutes=minutes))


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set to the seconds that a step takes."""
    times = SimpleNamespace(now=0.0, step_s=60.0)

    def backward(*_):
        times.now += times.step_s
        return torch.tensor(1.0)

    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: times.now))
    return SimpleNamespace(times=times, backward=backward)


@pytest.mark.parametrize(
    ("step_s", "minutes", "steps"),
    [
        (60, 5.0, [5, 10, 12]),
        (150, 5.0, [2, 4, 6, 8, 10, 12]),
        (1, 5.0, [12]),
        (60, None, [12]),
        (60, 0.5, [*range(1, 13)]),
    ],
)
def test_a_checkpoint_is_saved_when_the_last_one_is_so_many_minutes_old(
    trained, clock, monkeypatch, step_s, minutes, steps
):
    monkeypatch.setattr(loop, "backward", clock.backward)
    clock.times.step_s = step_s
    assert [done for done, _ in trained(Progress(), experiment=by_the_clock(minutes)).saved] == steps


@pytest.mark.parametrize("first_says", [[4, 9], []])
def test_every_rank_saves_when_the_clock_of_the_first_says_so(trained, clock, monkeypatch, first_says):
    """This is the second rank, whose own clock stands at an hour a step."""
    monkeypatch.setattr(loop, "backward", clock.backward)
    clock.times.step_s, calls = 3600, []

    def all_reduce(values):  # the loss, the norm, the wish to stop, and whether a checkpoint is overdue
        calls.append(None)
        values += torch.tensor([0.5, 0.5, 0.0, float(len(calls) in first_says)])

    monkeypatch.setattr(figures.dist, "all_reduce", all_reduce)
    monkeypatch.setattr(loop, "across_ranks", lambda embedder, exchange: embedder)
    state = trained(Progress(), experiment=by_the_clock(5.0), rank=1, workers=2)
    assert [done for done, _ in state.saved] == [*first_says, 12]
