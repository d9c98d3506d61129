"""Choosing among points, and testing two of them against each other, on numbers worked by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hybrid_ir.evaluation.significance import compare_trials, holm, question_values
from hybrid_ir.tuning import sweeps
from hybrid_ir.tuning.choice import choose, half_width, pareto, point_results
from hybrid_ir.tuning.search_space import parse_space
from hybrid_ir.types import InputError


def row(label, seed, ap, distance, state="complete"):
    measures = {"AP_mean": ap, "rank_distance": distance} if state == "complete" else {}
    return {
        "trial": f"{label}-{seed}", "label": label, "point": {"x": label}, "seed": seed, "state": state,
        "validation": measures, "test": {k: v + 1 for k, v in measures.items()},
    }  # fmt: skip


ROWS = [
    row("a", 0, 0.50, 100), row("a", 1, 0.54, 120),  # mean .52, 110
    row("b", 0, 0.60, 300), row("b", 1, 0.60, 340),  # mean .60, 320
    row("c", 0, 0.40, 200), row("c", 1, 0.40, 200),  # beaten by a on both
    row("d", 0, 0.90, 10, "failed"), row("d", 1, 0.30, 50),
]  # fmt: skip


def test_points_are_means_over_the_seeds_that_ended():
    a, _, _, d = point_results(ROWS)
    assert (a.validation["AP_mean"], a.validation["rank_distance"]) == pytest.approx((0.52, 110))
    assert a.trials == ("a-1", "a-0")  # the best of validation first
    assert a.test["AP_mean"] == pytest.approx(1.52)
    assert (d.trials, d.failed, d.validation["AP_mean"]) == (("d-1",), 1, 0.30)


def test_the_choice_is_the_best_that_keeps_the_bound():
    results = point_results(ROWS)
    assert choose(results).label == "b"
    assert choose(results, max_rank_distance=150).label == "a"
    assert choose(results, max_rank_distance=60).label == "d"
    assert choose(results, max_rank_distance=1) is None


def test_the_pareto_set_is_what_no_other_beats():
    assert [r.label for r in pareto(point_results(ROWS))] == ["d", "a", "b"]


def test_best_is_the_last_choice_until_the_next_one_is_complete(tmp_path, monkeypatch):
    for each in ROWS:
        checkpoint = tmp_path / "trials" / each["trial"] / "checkpoint"
        checkpoint.mkdir(parents=True)
        (checkpoint / "weights").write_text(each["trial"])
    weights, choice = tmp_path / "best" / "weights", tmp_path / "choice.json"
    publish = partial(sweeps._publish_choice, ROWS, out=str(tmp_path), folder=tmp_path)
    bound = parse_space({"axes": {"batch.alpha": [0.5]}, "max_rank_distance": 150}, "test")
    publish(space=bound)
    assert weights.read_text() == "a-1"

    def full(source, target):
        target.mkdir()
        (target / "weights").write_text("half")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sweeps.shutil, "copytree", full)
        with pytest.raises(OSError, match="No space"):
            publish(space=bound.model_copy(update={"max_rank_distance": None}))
    assert weights.read_text() == "a-1"
    assert json.loads(choice.read_text())["chosen"]["trial"] == "a-1"

    publish(space=bound.model_copy(update={"max_rank_distance": None}))
    assert weights.read_text() == json.loads(choice.read_text())["chosen"]["trial"] == "b-0"
    publish(space=bound.model_copy(update={"max_rank_distance": 1}))
    assert not weights.exists()
    assert json.loads(choice.read_text())["chosen"] is None
    assert {path.name for path in tmp_path.iterdir()} == {"trials", "choice.json"}


def test_half_widths_are_students():
    # Two seeds .50 and .54: deviation .0283, divided by sqrt 2, times t(.975, 1) = 12.706.
    assert half_width([0.50, 0.54]) == pytest.approx(12.706 * 0.02, abs=1e-3)
    assert half_width([0.50, 0.52, 0.54]) == pytest.approx(4.303 * 0.02 / math.sqrt(3), abs=1e-4)
    assert math.isnan(half_width([0.5]))


def write(path, values):
    """values: (group, language, pool, AP, rank_distance)"""
    names = ("group_id", "language", "pool", "AP", "rank_distance")
    pq.write_table(pa.table({n: [v[i] for v in values] for i, n in enumerate(names)}), path)
    return path


def test_a_questions_value_is_the_mean_over_its_languages_and_pairs(tmp_path):
    path = write(
        tmp_path / "q.parquet",
        [
            ("1", "de", "de", 1.0, None), ("1", "de", "en", 0.5, None), ("1", "de", "all", 0.4, 3.0),
            ("1", "en", "en", 0.5, None), ("1", "en", "de", 0.1, None), ("1", "en", "all", 0.2, 5.0),
            ("2", "de", "de", 0.3, None), ("2", "de", "all", 0.9, None),
        ],
    )  # fmt: skip
    assert question_values(path, "AP_mono") == pytest.approx({"1": 0.75, "2": 0.3})
    assert question_values(path, "AP_cross") == pytest.approx({"1": 0.3})
    assert question_values(path, "AP_multi") == pytest.approx({"1": 0.3, "2": 0.9})
    assert question_values(path, "rank_distance") == pytest.approx({"1": 4.0})


def trials(tmp_path, name, shift, seed):
    """Sixty questions in two languages; every value is `shift` above a question's own level."""
    generator = np.random.default_rng(seed)
    level = np.random.default_rng(7).random(60) * 0.5
    rows = []
    for i in range(60):
        noise = generator.normal(0, 0.01)
        for language, other in (("de", "en"), ("en", "de")):
            value = level[i] + shift + noise
            rows += [(str(i), language, language, value, None), (str(i), language, other, value, None)]
            rows.append((str(i), language, "all", value, 100 - 100 * value))
    return write(tmp_path / f"{name}-{seed}.parquet", rows)


def test_a_real_difference_is_shown_and_none_is_not_invented(tmp_path):
    better = [trials(tmp_path, "better", 0.05, seed) for seed in (0, 1)]
    same = [trials(tmp_path, "same", 0.0, seed) for seed in (2, 3)]
    again = [trials(tmp_path, "again", 0.0, seed) for seed in (4, 5)]
    for c in compare_trials(("better", better), ("same", same)):
        assert c.verdict == "better", c
        assert c.questions == 60
        if c.measure != "rank_distance":
            assert c.difference == pytest.approx(0.05, abs=0.005)
            assert c.low < 0.05 < c.high
    assert {c.verdict for c in compare_trials(("same", same), ("better", better))} == {"worse"}
    assert {c.verdict for c in holm(compare_trials(("same", same), ("again", again)))} == {"no difference shown"}


def test_holm_by_hand(tmp_path):
    a, b = [trials(tmp_path, "a", 0.05, 0)], [trials(tmp_path, "b", 0.0, 1)]
    made = compare_trials(("a", a), ("b", b))
    ps = [0.01, 0.04, 0.03, 0.005]
    corrected = holm([replace(c, p=p) for c, p in zip(made, ps, strict=True)])
    # Sorted .005 .01 .03 .04, times 4 3 2 1, never falling: .02 .03 .06 .06.
    assert [c.p for c in corrected] == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_two_runs_without_a_common_question_are_refused(tmp_path):
    a = write(tmp_path / "a.parquet", [("1", "de", "de", 1.0, 1.0)])
    b = write(tmp_path / "b.parquet", [("2", "de", "de", 1.0, 1.0)])
    with pytest.raises(InputError, match="answer no question in common"):
        compare_trials(("a", [a]), ("b", [b]), measures=("AP_mono",))
