"""Trackers: what is logged can be read back from where people look for it."""

from __future__ import annotations

import pytest

from hybrid_ir.training.ray_train.tracking import check_trackers, open_trackers, tracked
from hybrid_ir.types import InputError

ROWS = [
    {"step": 10, "loss": 2.5, "pairs_per_s": 100.0, "kinds": {"monolingual": 10}},
    {"step": 20, "loss": 1.5, "pairs_per_s": 120.0, "kinds": {"monolingual": 20}},
    {"step": 20, "AP_mono": 0.75, "R@1_mono": 0.5},
]


def write(names, run, rows):
    trackers = open_trackers(names, run, {"train.steps": "20"})
    for row in rows:
        for tracker in trackers:
            tracker.write(row["step"], tracked(row))
    for tracker in trackers:
        tracker.close()


def test_a_row_is_named_by_what_it_belongs_to():
    assert tracked(ROWS[0]) == {"train/loss": 2.5, "train/pairs_per_s": 100.0}
    assert tracked(ROWS[2]) == {"validation/AP_mono": 0.75, "validation/R@1_mono": 0.5}


def test_tensorboard_has_what_was_written(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(("tensorboard",), tmp_path, ROWS)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(10, 2.5), (20, 1.5)]
    assert [(e.step, e.value) for e in events.Scalars("validation/AP_mono")] == [(20, 0.75)]


def test_mlflow_has_settings_and_rows_of_one_run_over_a_resume(tmp_path, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    run = tmp_path / "my-run"
    run.mkdir()
    write(("mlflow",), run, ROWS[:1])
    write(("mlflow",), run, ROWS[1:])  # as a resumed training does
    client = mlflow.MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("hybrid-ir").experiment_id])
    assert found.info.run_name == "my-run"
    assert found.info.status == "FINISHED"
    assert found.data.params == {"train.steps": "20"}
    assert [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, "train/loss")] == [
        (10, 2.5),
        (20, 1.5),
    ]
    assert found.data.metrics["validation/R_at_1_mono"] == 0.5


def test_a_tracker_that_is_not_installed_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"train\.trackers names wandb, which is not installed; run: pip install wandb"
    ):
        check_trackers(("wandb",))
