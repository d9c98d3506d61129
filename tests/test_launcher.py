"""The driver beside its workers, with Ray's parts made of air: no row is lost however a training ends."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from hybrid_ir.config.experiment import Experiment, Train
from hybrid_ir.training.ray_train import launcher
from hybrid_ir.training.ray_train.exchange import Monitor, Recorder


class Remote:
    """An object whose methods are called as an actor's."""

    def __init__(self, target) -> None:
        self._target = target

    def __getattr__(self, name):
        return SimpleNamespace(remote=getattr(self._target, name))


@pytest.fixture
def launched(monkeypatch, tmp_path):
    """Launches a training whose workers are `work(monitor)` into tmp_path. Returns the monitor."""
    monitor = Monitor()
    actor = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda: Remote(monitor)))
    monkeypatch.setattr(launcher, "ray", SimpleNamespace(remote=lambda _: actor, get=lambda value: value))
    monkeypatch.setattr(launcher, "Assignment", lambda *_: None)

    @contextmanager
    def open_log(run, experiment):
        with (run / "log.jsonl").open("a") as file:
            yield lambda row: print(json.dumps(row), file=file, flush=True)

    monkeypatch.setattr(launcher, "open_log", open_log)

    def launch(work, report, **settings):
        trainer = SimpleNamespace(fit=lambda: work(monitor) or SimpleNamespace(checkpoint=None))
        monkeypatch.setattr(launcher, "_trainer", lambda _: trainer)
        launcher.launch(Experiment(train=Train(**settings)), None, None, "", None, tmp_path, report)  # type: ignore[arg-type]
        return monitor

    return launch


def logged(run) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


class Stopped(Exception):
    pass


def test_rows_that_came_with_one_that_ends_a_trial_and_after_it_are_in_the_log(launched, tmp_path):
    stopping = threading.Event()

    def work(monitor):
        for step in (1, 2, 3):
            monitor.row({"step": step, "loss": 1.0})
        stopping.wait(20)
        monitor.row({"step": 4, "loss": 1.0})  # the step that the workers were in

    def report(row):
        stopping.set()
        raise Stopped

    with pytest.raises(Stopped):
        launched(work, report)
    assert [row["step"] for row in logged(tmp_path)] == [1, 2, 3, 4]


def test_patience_does_not_count_what_was_measured_before_a_rollback(launched, tmp_path):
    """An attempt that was rolled back left a worse validation at step 20. This one is at step 10 again."""
    before = [{"step": 10, "AP_mean": 0.5}, {"step": 20, "AP_mean": 0.4}]
    (tmp_path / "log.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in before))
    asked = []

    def work(monitor):
        monitor.row({"step": 10, "AP_mean": 0.5})
        time.sleep(1)  # the driver looks
        asked.append(monitor.row({"step": 11, "loss": 1.0}))

    launched(work, lambda row: None, validation="async", evaluate_every=10, patience=1)
    assert asked == [False]


class Clocked(Recorder):
    def __init__(self) -> None:
        super().__init__(None, 0)
        self._monitor, self.rows = object(), []

    def _send(self, row) -> None:
        self.rows.append(row)


def test_pairs_a_second_count_the_time_before_a_checkpoint_that_came_without_a_row():
    recorder = Clocked()

    def step(elapsed_s, waited_s):
        recorder.step({}, at_once=False, elapsed_s=elapsed_s, waited_s=waited_s, pairs=10)

    step(0.4, 0.1)  # too early for a row
    recorder.restart_clock()  # a checkpoint
    step(0.6, 0.1)  # the clock started again: one second since the last row, on 20 pairs
    assert recorder.rows == [{"pairs_per_s": pytest.approx(20.0), "input_wait": pytest.approx(0.2)}]
    recorder.restart_clock()
    step(0.5, 0.0)
    assert recorder.rows[1] == {"pairs_per_s": pytest.approx(20.0), "input_wait": pytest.approx(0.0)}
