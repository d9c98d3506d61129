"""The driver beside its workers, with Ray's parts made of air: no row is lost, and which failures are tried again."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import ray.exceptions
import torch
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from hybrid_ir.config.experiment import Experiment, Train
from hybrid_ir.config.section import on_resume
from hybrid_ir.training.ray_train import launcher
from hybrid_ir.training.ray_train.exchange import Monitor, Recorder
from hybrid_ir.types import InputError


class Remote:
    """An object whose methods are called as an actor's."""

    def __init__(self, target) -> None:
        self._target = target

    def __getattr__(self, name):
        return SimpleNamespace(remote=getattr(self._target, name))


@pytest.fixture
def launched(monkeypatch, tmp_path):
    """Launches a training into tmp_path, whose workers are `work(monitor)`."""
    monitor = Monitor()
    monkeypatch.setattr(launcher, "ray", SimpleNamespace(get=lambda value: value))
    monkeypatch.setattr(launcher, "_monitor", lambda: Remote(monitor))

    @contextmanager
    def open_log(run, experiment):
        with (run / "log.jsonl").open("a") as file:
            yield lambda row: print(json.dumps(row), file=file, flush=True)

    monkeypatch.setattr(launcher, "open_log", open_log)

    def launch(work, report, put_back=lambda: None, **settings):
        monkeypatch.setattr(launcher, "make_trainer", lambda _: SimpleNamespace(fit=lambda: work(monitor)))
        experiment = Experiment(out=str(tmp_path), train=Train(**settings))
        store = SimpleNamespace(manifest={"eval": {}})
        return launcher.launch(experiment, store, None, "", None, tmp_path, put_back, report)  # type: ignore[arg-type]

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


def test_the_log_is_put_back_at_each_checkpoint_and_a_place_that_is_away_ends_nothing(launched, tmp_path):
    """A bucket that answers again at the second checkpoint."""
    there, said = [], []

    def put_back():
        there.append([row["step"] for row in logged(tmp_path)])
        if len(there) == 1:
            raise InputError("cannot write to s3://bucket/run: timeout; what was to go there is in /tmp/run")

    def work(monitor):
        for step in (1, 2):
            monitor.row({"step": step, "loss": 1.0})
            monitor.row({"step": step, "saved": True})

    launched(work, said.append, put_back)
    assert there == [[1], [1, 2]]
    assert "the next checkpoint will try again" in next(row["warning"] for row in said if "warning" in row)


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


# What is tried again

GONE = "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:31337"
KILLED = WorkerHealthCheckFailedError("a worker health check failed", ray.exceptions.ActorDiedError())


def workers(**failures: Exception) -> WorkerGroupError:
    """As Ray Train raises it: rank -> what happened there."""
    return WorkerGroupError("...", {int(rank.removeprefix("rank")): error for rank, error in failures.items()})


def caused(error: Exception) -> ray.exceptions.RayTaskError:
    return ray.exceptions.RayTaskError("block", "Traceback ...", error)


@pytest.mark.parametrize(
    "error",
    [
        workers(rank0=KILLED),
        workers(rank0=RuntimeError(GONE), rank1=KILLED),
        workers(rank0=RuntimeError(GONE)),  # the peer's death was not seen yet
        workers(rank0=caused(ray.exceptions.ActorDiedError())),  # the actor that hands out batches
        ray.exceptions.ActorDiedError(),  # Ray Train's own controller
    ],
)
def test_a_lost_process_is_started_again_as_often_as_was_asked_for(launched, error):
    starts, said = [], []

    def work(monitor):
        starts.append(None)
        if len(starts) <= 2:
            raise error

    launched(work, said.append, max_failures=2)
    assert len(starts) == 3
    assert ["start 1 of 2" in said[0]["warning"], "start 2 of 2" in said[1]["warning"]] == [True, True]

    starts.clear()
    with pytest.raises(type(error)):
        launched(work, said.append, max_failures=1)
    assert len(starts) == 2


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (workers(rank0=FloatingPointError("the gradient is nan")), "training diverged: the gradient is nan"),
        (workers(rank1=InputError("block 3 cannot be read")), "block 3 cannot be read"),
        (workers(rank0=caused(InputError("block 3 cannot be read"))), "block 3 cannot be read"),
        (workers(rank0=raised_from(InputError("block 3 cannot be read"), OSError(5))), "block 3 cannot be read"),
        (workers(rank0=RuntimeError(GONE), rank1=FloatingPointError("the gradient is inf")), "training diverged"),
        (workers(rank0=torch.OutOfMemoryError("CUDA out of memory.")), "out of memory .*CUDA"),
        (workers(rank0=RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")), "out of memory"),
        (workers(rank0=MemoryError()), "out of memory"),
        (workers(rank0=ray.exceptions.OutOfMemoryError("worker killed")), "out of memory"),
    ],
)
def test_what_a_retry_cannot_cure_is_said_at_once_and_once(launched, error, said):
    starts = []

    def work(monitor):
        starts.append(None)
        raise error

    with pytest.raises(InputError, match=said):
        launched(work, lambda row: None, max_failures=3)
    assert len(starts) == 1


def test_out_of_memory_names_the_settings_that_help_and_that_a_run_may_go_on_with(launched):
    def work(monitor):
        raise workers(rank0=MemoryError())

    with pytest.raises(InputError) as caught:
        launched(work, lambda row: None, micro_batch_tokens=4096)
    for path in ("train.micro_batch_tokens", "loss.cached", "evaluate.token_budget"):
        assert path in str(caught.value)
        assert on_resume(Experiment, path) == "free"
    assert "(now 4096)" in str(caught.value)


def test_a_defect_is_not_tried_again_and_keeps_its_traceback(launched):
    starts = []

    def work(monitor):
        starts.append(None)
        raise workers(rank0=KeyError("b"))

    with pytest.raises(WorkerGroupError):
        launched(work, lambda row: None, max_failures=3)
    assert len(starts) == 1


# The clock


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
