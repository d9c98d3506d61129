"""The loop around its steps, without Ray: what a stop in the last step leaves, and what goes on from such a run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from hybrid_ir.config.experiment import Experiment, Train
from hybrid_ir.training import loop
from hybrid_ir.training.checkpoint import Progress

EXPERIMENT = Experiment(train=Train(steps=3))


class Recorder:
    """Wants a stop from the third step on."""

    def __init__(self, state) -> None:
        self._state = state

    def stop_wanted(self) -> bool:
        return self._state.progress.done >= 2

    def step(self, row, **_) -> None:
        pass

    def restart_clock(self) -> None:
        pass

    def validation(self, step, measures) -> None:
        self._state.validated.append(step)


@pytest.fixture
def trained(monkeypatch):
    """Runs the loop from `done` steps on, each of them made light; returns the state that it leaves."""
    monkeypatch.setattr(loop, "backward", lambda *_: 1.0)
    monkeypatch.setattr(loop, "update", lambda *_: 1.0)
    monkeypatch.setattr(loop, "validate", lambda *_: {"AP_mean": 0.5})
    monkeypatch.setattr(loop, "save_model", lambda *_: None)

    def run(done: int):
        state = SimpleNamespace(
            progress=Progress(done=done), model=SimpleNamespace(device=torch.device("cpu")),
            embedder=torch.nn.Identity(),
            optimizer=None, best=None, validated=[], saved=[],
        )  # fmt: skip
        batch = SimpleNamespace(kind="monolingual", pairs=(("en", "en"),) * 2, size=2)
        feed = type("Feed", (), {"seconds": 0.0, "__next__": lambda self: batch})()

        def save(measure):
            state.saved.append((state.progress.done, state.progress.finished))

        loop.train_steps(EXPERIMENT, state, feed, SimpleNamespace(), Recorder(state), save, 0, 1)
        return state

    return run


def test_a_stop_in_the_last_step_does_not_keep_a_run_from_finishing(trained):
    state = trained(0)
    assert state.saved == [(3, True)]
    assert state.validated == [3]


def test_a_run_that_was_left_after_its_last_step_is_finished_when_it_goes_on(trained):
    state = trained(3)
    assert state.saved == [(3, True)]
    assert state.validated == [3]
