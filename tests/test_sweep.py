"""Sweeps on a real Ray: the table, a crash, an interruption, early stops that free their workers, what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.numpy import load_file
from training_runs import Plain
from training_store import make_store

from hybrid_ir.cli import sweeps as cli_sweeps
from hybrid_ir.config.loading import load_experiment
from hybrid_ir.training.resources import concurrent_trials
from hybrid_ir.tuning.cost import ASSUMED_TOKENS, GPU_FLOPS, estimate_cost, parameters
from hybrid_ir.tuning.points import drawn_point
from hybrid_ir.tuning.ray_tuner import RememberingASHA, bayesian_search, rows_of
from hybrid_ir.tuning.search_space import parse_space
from hybrid_ir.tuning.sweeps import claim, list_trials, take_over
from hybrid_ir.types import InputError

SMALL = [
    "encoder.vocabulary=600", "encoder.max_tokens=32", "batch.size=16", "train.steps=30", "train.evaluate_every=10",
    "train.learning_rate=3.0e-3", "train.feed=in_process", "train.cpus_per_worker=0.8", "train.threads_per_worker=1",
    "train.trackers=[]", "train.precision=fp32", "evaluate.precision=fp32", "evaluate.bootstrap_rounds=0",
]  # fmt: skip


def tune(store, space: dict, out: Path, *more, config=()):
    file = out.parent / f"{out.name}.yaml"
    file.write_text(yaml.safe_dump(space), encoding="utf-8")
    command = [sys.executable, "-m", "hybrid_ir.cli", "tune", "--space", str(file), "--out", str(out), *more]
    return [*command, f"store={store}", *SMALL, *config]


def run(command, timeout=500):
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def table(out):
    rows = pq.read_table(out / "trials.parquet").to_pylist()
    return {(row["label"], row["seed"]): row for row in rows}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "store"
    make_store(path)
    return path


# Before anything starts


def base(*overrides):
    return load_experiment(None, [*SMALL, *overrides])


def test_concurrency_is_what_the_cluster_holds():
    # A trial is 0.1 CPUs of driver and 0.8 of worker.
    assert concurrent_trials(base(), {"CPU": 2}) == 2
    assert concurrent_trials(base(), {"CPU": 16}) == 17
    assert concurrent_trials(base("train.workers=4", "train.cpus_per_worker=1"), {"CPU": 8.2}) == 2
    assert concurrent_trials(base("train.gpus_per_worker=1"), {"CPU": 64, "GPU": 3}) == 3


def test_a_trial_that_the_cluster_cannot_hold_is_refused():
    with pytest.raises(InputError, match=r"training needs 4 CPUs .*the cluster has 2\.9"):
        concurrent_trials(base("train.workers=4", "train.cpus_per_worker=1"), {"CPU": 3})


def test_asha_compares_at_validations():
    space = parse_space({"axes": {"batch.alpha": [0, 1]}, "asha": {"first": 15}}, "test")
    with pytest.raises(InputError, match=r"asha.first=15 must be a multiple of train.evaluate_every \(which is 10\)"):
        list_trials(base(), space, "out")


def test_a_bayesian_draw_is_a_point():
    axes = {
        "train.learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
        "encoder.name": ["tiny", "mini"],
        "batch.mix": {"simplex": ["monolingual", "cross_lingual"]},
    }
    space = parse_space({"search": "bayesian", "samples": 2, "axes": axes}, "test")
    drawn = {"train.learning_rate": 0.5, "encoder.name": 1, "batch.mix": {"monolingual": 0.5, "cross_lingual": 0.5}}
    assert drawn_point(space, drawn) == {
        "train.learning_rate": pytest.approx(1e-4),
        "encoder.name": "mini",
        "batch.mix": {"monolingual": 0.5, "cross_lingual": 0.5},
    }


def test_a_bayesian_search_draws_points_from_its_seed_and_goes_on_after_a_restart(tmp_path):
    axes = {
        "train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "batch.mix": {"simplex": ["monolingual", "cross_lingual"]},
        "encoder.name": ["tiny", "mini"],
    }
    space = parse_space({"search": "bayesian", "samples": 4, "axes": axes}, "test")
    first, again = bayesian_search(space, 0), bayesian_search(space, 0)
    drawn = [first.suggest(f"t{i}") for i in range(3)]
    assert drawn == [again.suggest(f"t{i}") for i in range(3)]
    first.save(str(tmp_path / "state"))  # as Tune does, whose state a restart reads
    restored = bayesian_search(space, 0)
    restored.restore(str(tmp_path / "state"))
    assert restored.suggest("t3") == first.suggest("t3")
    for config in drawn:
        point = drawn_point(space, config)
        assert 1e-4 <= point["train.learning_rate"] <= 1e-2
        assert sum(point["batch.mix"].values()) == pytest.approx(1, abs=1e-3)
        assert point["encoder.name"] in ("tiny", "mini")


def test_each_seed_of_a_bayesian_point_is_a_row(tmp_path):
    space = parse_space(
        {"search": "bayesian", "samples": 1, "seeds": [3, 4], "axes": {"encoder.name": ["tiny", "mini"]}}, "test"
    )
    done = [
        {"trial": f"n{seed}", "seed": seed, "step": 30, "seconds": 1.0, "AP_mean": seed / 10, "test": {"AP_mono": 0.5}}
        for seed in (3, 4)
    ]
    result = SimpleNamespace(
        metrics={**done[-1], "complete": done, "done": True}, error=None, config={"encoder.name": 1}
    )
    found = rows_of(result, {}, space)
    assert [(r["trial"], r["seed"], r["state"], r["validation"]) for r in found] == [
        ("n3", 3, "complete", {"AP_mean": 0.3}),
        ("n4", 4, "complete", {"AP_mean": 0.4}),
    ]
    assert {r["label"] for r in found} == {"name=mini"}
    failed = SimpleNamespace(metrics=None, error=RuntimeError("ValueError: no"), config={"encoder.name": 0})
    assert [(r["state"], r["label"]) for r in rows_of(failed, {}, space)] == [("failed", "name=tiny")]


def test_asha_remembers_after_a_restart_what_ended_trials_scored(tmp_path):
    def scheduler():
        settings = {"time_attr": "step", "metric": "AP_mean", "mode": "max", "max_t": 31, "grace_period": 10}
        return RememberingASHA(lambda config: [tmp_path / config["trial"]], **settings, reduction_factor=2)

    def trial(name, status, last):
        return SimpleNamespace(trial_id=name, config={"trial": name}, status=status, last_result=last)

    (tmp_path / "good").mkdir()
    rows = [{"step": 5, "loss": 1.0}, {"step": 10, "AP_mean": 0.4}, {"step": 20, "AP_mean": 0.5}]
    (tmp_path / "good" / "log.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    weak = trial("weak", "PENDING", {})

    for ended, step, decision in (
        (trial("good", "TERMINATED", {"step": 20}), 10, "STOP"),
        (trial("good", "TERMINATED", {"step": 20}), 20, "STOP"),
        (trial("good", "TERMINATED", {"step": 10}), 20, "CONTINUE"),  # the sweep never saw what came after
        (trial("good", "PENDING", {"step": 20}), 10, "CONTINUE"),  # it will report again
    ):
        asha = scheduler()
        asha.on_trial_add(None, ended)
        asha.on_trial_add(None, weak)
        assert asha.on_trial_result(None, weak, {"step": step, "AP_mean": 0.3}) == decision


def test_gpu_hours_by_hand():
    experiment = base("encoder.name=FacebookAI/xlm-roberta-base", "train.gpus_per_worker=1", "encoder.max_tokens=256")
    # 12 layers of 4 x 768 x 768 + 2 x 768 x 3072.
    assert parameters((12, 768, 3072)) == 84_934_656
    flops = 6 * 84_934_656 * ASSUMED_TOKENS * 16 * 30
    cost = estimate_cost([experiment] * 3, 3, None)
    assert cost.hours == pytest.approx((flops / GPU_FLOPS + 40) / 3600, rel=1e-6)
    assert cost.gpu_hours == pytest.approx(3 * cost.hours, rel=1e-6)
    assert estimate_cost([base("encoder.name=some/unknown-model")], 1, None) is None


def test_a_dry_run_prints_trials_and_cost_and_starts_nothing(store, tmp_path):
    space = {"axes": {"batch.alpha": [0, 0.5, 1]}, "seeds": [0, 1]}
    done = run(tune(store, space, tmp_path / "out", "--dry-run"))
    assert done.returncode == 0, done.stderr
    assert "alpha=0.5" in done.stdout
    assert "6 trials, about " in done.stdout
    assert not (tmp_path / "out").exists()


def test_what_the_store_cannot_serve_is_refused_before_anything_starts(store, tmp_path):
    done = run(tune(store, {"axes": {"batch.size": [16, 100_000]}}, tmp_path / "out"))
    assert done.returncode == 2
    assert "size=100000: batch.size=100000 needs at least" in done.stderr
    assert not (tmp_path / "out").exists()


def test_trials_that_another_sweep_trained_are_taken_over_and_no_others(store, tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for out in (ours, theirs):
        claim(base(f"store={store}"), parse_space({"axes": {"batch.alpha": [0, 1]}}, "test"), out)
    for name in ("finished", "here", "stopped", "another"):
        folder = theirs / "trials" / name
        (folder / "checkpoint").mkdir(parents=True)
        (folder / "checkpoint" / "weights").write_text(f"theirs, {name}")
        (folder / "probe.json").write_text("{}")
        if name != "stopped":
            (folder / "metrics.json").write_text("{}")
    (ours / "trials" / "here").mkdir(parents=True)
    assert take_over(["finished", "here", "stopped", "new"], theirs, ours) == 1
    assert {each.name for each in (ours / "trials").iterdir()} == {"finished", "here"}
    assert (ours / "trials" / "finished" / "checkpoint" / "weights").read_text() == "theirs, finished"
    assert not (ours / "trials" / "finished" / "probe.json").exists()
    assert not any((ours / "trials" / "here").iterdir())
    with pytest.raises(InputError, match=r"is not the folder of a study or a sweep: it has no sweep\.json"):
        take_over(["finished"], tmp_path, ours)
    sweep = json.loads((theirs / "sweep.json").read_text())
    (theirs / "sweep.json").write_text(json.dumps(sweep | {"store": "other"}))
    with pytest.raises(InputError, match="trained on another store"):
        take_over(["another"], theirs, ours)


def test_another_sweeps_folder_is_left_alone(store, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    claim(base(f"store={store}"), parse_space({"axes": {"batch.alpha": [0, 1]}}, "test"), out)
    done = run(tune(store, {"axes": {"batch.alpha": [0]}}, out))
    assert done.returncode == 2
    assert "holds a sweep that differs in its space; choose another --out" in done.stderr
    other.mkdir()
    (other / "thesis.tex").touch()
    done = run(tune(store, {"axes": {"batch.alpha": [0]}}, other))
    assert done.returncode == 2
    assert "holds something that is not a sweep, so it is left alone" in done.stderr
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]


def test_the_page_of_a_sweep_names_its_space_and_its_points(store, tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr(cli_sweeps, "_run", lambda *_, **options: given.update(options))
    (tmp_path / "alphas.yaml").write_text("axes: {batch.alpha: [0.25, 0.75]}", encoding="utf-8")
    cli_sweeps.tune(tmp_path / "alphas.yaml", str(tmp_path / "out"), overrides=[f"store={store}"], wait_for_nodes=7)
    assert (given["at_a_time"], given["wait_for_nodes"]) == (None, 7)
    measures = {"AP_mean": 0.5, "AP_mono": 0.5, "AP_cross": 0.4, "AP_multi": 0.3, "rank_distance": 10.0}
    rows = [
        {"trial": f"t{alpha}", "label": f"alpha={alpha}", "point": {"batch.alpha": alpha}, "seed": 0, "state": "complete",  # noqa: E501
         "error": None, "steps": 10, "seconds": 1.0, "validation": measures, "test": measures}
        for alpha in (0.25, 0.75)
    ]  # fmt: skip
    given["publish"](rows, tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(said in page for said in ("Sweep: alphas", "alpha=0.25", "alpha=0.75"))


# On a real Ray


# The machine holds one trial at a time: each can only train where the one before it, stopped early, let go.
ONE_AT_A_TIME = [f"train.cpus_per_worker={(os.cpu_count() or 1) - 0.2}"]
SPACE = {
    "axes": [{"train.learning_rate": [3e-3, 1e-7]}, {"encoder.name": ["nowhere/at-all"]}],
    "asha": {"first": 10, "factor": 2},
}


class Study(NamedTuple):
    """A study that was interrupted in its first trial, and its second run: an encoder that learns, one that is
    stopped early, and one that is not there."""

    out: Path
    interrupted: subprocess.CompletedProcess[str]
    table_before: bool
    done: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def study(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    out = folder / "sweep"
    form = {"experiment": {}, "space": SPACE, "compare": [["learning_rate=0.003", "learning_rate=1e-07"]]}
    file = folder / "robustness.yaml"
    file.write_text(yaml.safe_dump({"question": "Why?", "toy": form, "full": form}), encoding="utf-8")
    command = [sys.executable, "-m", "hybrid_ir.cli", "study", str(file), "--out", str(out)]
    command += [f"store={store}", *SMALL, *ONE_AT_A_TIME]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 300
    # In the middle: one trial has measures of a validation, and none has ended.
    while not any("AP_mono" in log.read_text(encoding="utf-8") for log in out.glob("trials/*/log.jsonl")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal's Ctrl-C does: the whole group gets it
    said = process.communicate(timeout=200)
    interrupted = subprocess.CompletedProcess(command, process.returncode, *said)
    return Study(out, interrupted, (out / "trials.parquet").exists(), run(command))


@pytest.mark.slow
def test_a_study_leaves_a_table_a_checkpoint_and_a_page(study):
    out, done = study.out, study.done
    assert done.returncode == 0, done.stderr
    assert "3 trials, 1 at a time" in done.stdout
    assert "chosen by AP_mean of validation: learning_rate=0.003" in done.stdout
    row = table(out)["learning_rate=0.003", 0]
    assert (row["state"], row["steps"]) == ("complete", 30)
    assert 0 < row["test_AP_mean"] <= 1
    trial = out / "trials" / row["trial"]
    measures = json.loads((trial / "test" / "metrics.json").read_text(encoding="utf-8"))
    assert row["test_AP_multi"] == measures["AP_multi"]
    assert json.loads((trial / "probe.json").read_text(encoding="utf-8"))["typos/changed"] > 0
    choice = json.loads((out / "choice.json").read_text(encoding="utf-8"))
    assert choice["chosen"]["trial"] == row["trial"]
    assert (out / "best" / "modules.json").is_file()
    page = (out / "report.html").read_text(encoding="utf-8")
    assert all(part in page for part in ("Why?", "learning_rate=0.003", "Perturbed queries"))


@pytest.mark.slow
def test_early_stopped_trials_free_their_workers(study):
    rows = table(study.out)
    states = {label: (row["state"], row["steps"]) for (label, _), row in rows.items()}
    assert states["learning_rate=1e-07"] == ("stopped early", 10)
    assert states["name=nowhere/at-all"][0] == "failed", "it had a worker, so the stopped trial's was free"


@pytest.mark.slow
def test_a_trial_that_fails_is_reported_with_its_cause_and_ends_nothing(study):
    out, done = study.out, study.done
    row = table(out)["name=nowhere/at-all", 0]
    assert row["state"] == "failed"
    assert "'nowhere/at-all' is not a model that can be loaded" in row["error"]
    assert "failed: name=nowhere/at-all seed=0: " in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_ctrl_c_saves_the_sweep_and_says_how_to_go_on(study):
    assert study.interrupted.returncode == 130, study.interrupted.stderr
    assert "trials to go" in study.interrupted.stderr
    assert "resume with the same command" in study.interrupted.stderr
    assert "Traceback" not in study.interrupted.stdout + study.interrupted.stderr
    assert not study.table_before


@pytest.mark.slow
def test_an_interrupted_trial_goes_on_to_what_it_would_have_been_unbroken(study, store):
    """Held against a plain loop, without Ray and without a stop. (The trials after it are still stopped by what it
    scored.)
    """
    row = table(study.out)["learning_rate=0.003", 0]
    trial = study.out / "trials" / row["trial"]
    plain = Plain(load_experiment(None, [*SMALL, f"store={store}"]), trial / "initial")
    log = [json.loads(line) for line in (trial / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = {each["step"]: each["loss"] for each in log if "loss" in each}
    assert max(losses) == 30
    for step, loss in losses.items():
        assert loss == pytest.approx(plain.losses[step - 1], rel=2e-3), step
    ledger = json.loads((trial / "ledger.json").read_text(encoding="utf-8"))
    assert {kind: each["batches"] for kind, each in ledger["kinds"].items()} == plain.batches
    best = plain.weights[json.loads((trial / "metrics.json").read_text(encoding="utf-8"))["best_step"]]
    for name, value in load_file(trial / "checkpoint" / "model.safetensors").items():
        np.testing.assert_allclose(value, best[name], atol=2e-3, err_msg=name)
