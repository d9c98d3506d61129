"""Search spaces: the points they hold, counted by hand, and what is refused before anything starts."""

from __future__ import annotations

import numpy as np
import pytest

from hybrid_ir.config.experiment import Experiment
from hybrid_ir.config.loading import parse_experiment
from hybrid_ir.tuning.axes import Range, Simplex
from hybrid_ir.tuning.points import enumerate_points, point_label, trial_experiment, trial_name
from hybrid_ir.tuning.search_space import load_space, parse_space
from hybrid_ir.types import InputError

BASE = Experiment()
KINDS = ["monolingual", "cross_lingual", "multilingual"]


def points(tree, base=BASE):
    return enumerate_points(parse_space(tree, "space.yaml"), base)


def test_a_grid_is_every_combination():
    found = points({"axes": {"batch.alpha": [0, 0.5, 1], "encoder.name": ["tiny", "mini"]}})
    assert [(p["batch.alpha"], p["encoder.name"]) for p in found] == [
        (a, n) for a in (0, 0.5, 1) for n in ("tiny", "mini")
    ]


def test_points_that_come_to_the_same_training_are_tried_once():
    mixes = [{"monolingual": 1, "cross_lingual": 1}, {"monolingual": 0.5, "cross_lingual": 0.5}, {"multilingual": 1}]
    found = points(
        {"axes": [{"batch.alpha": [0, 0.5, 1]}, {"batch.mix": mixes}, {"recipe": ["hybrid", "code_switched"]}]}
    )
    assert [point_label(p) for p in found] == ["alpha=0", "alpha=0.5", "alpha=1", "mix 0/0/1", "code_switched"]


def test_a_simplex_in_quarters_has_fifteen_mixes_of_three_kinds_and_five_of_two():
    for kinds, count in ((KINDS, 15), (KINDS[:2], 5)):
        mixes = [p["batch.mix"] for p in points({"axes": {"batch.mix": {"simplex": kinds, "step": 0.25}}})]
        assert len(mixes) == count
        assert all(sum(mix.values()) == pytest.approx(1) for mix in mixes)


def test_bounds_cut_the_simplex():
    space = {"simplex": {"monolingual": [0.5, 1], "cross_lingual": [0, 1], "multilingual": [0, 0.25]}, "step": 0.25}
    mixes = [tuple(p["batch.mix"].values()) for p in points({"axes": {"batch.mix": space}})]
    assert set(mixes) == {(1, 0, 0), (0.75, 0.25, 0), (0.75, 0, 0.25), (0.5, 0.5, 0), (0.5, 0.25, 0.25)}


def test_draws_are_uniform_on_the_simplex():
    # A uniform point of the triangle has weights of mean 1/3 and variance 1/18 (Dirichlet(1, 1, 1)).
    simplex = Simplex(simplex=dict.fromkeys(KINDS, (0.0, 1.0)))
    generator = np.random.default_rng(0)
    drawn = np.array([list(simplex.draw(generator.random(3)).values()) for _ in range(4000)])
    assert drawn.sum(axis=1) == pytest.approx(1, abs=2e-4)
    assert drawn.mean(axis=0) == pytest.approx(1 / 3, abs=0.02)
    assert drawn.var(axis=0) == pytest.approx(1 / 18, abs=0.005)


def test_draws_keep_lower_bounds():
    simplex = Simplex(simplex={"monolingual": (0.6, 1.0), "cross_lingual": (0.1, 1.0)})
    generator = np.random.default_rng(0)
    for _ in range(200):
        mix = simplex.draw(generator.random(2))
        assert mix["monolingual"] >= 0.6
        assert mix["cross_lingual"] >= 0.1


def test_a_range_by_hand():
    assert [Range(low=1, high=3).at(x) for x in (0, 0.5, 1)] == [1, 2, 3]
    assert Range(low=1e-5, high=1e-3, log=True).at(0.5) == pytest.approx(1e-4)
    assert Range(low=10, high=20, integer=True).at(0.26) == 13
    assert [p["train.learning_rate"] for p in points(
        {"axes": {"train.learning_rate": {"low": 1e-5, "high": 1e-3, "log": True, "points": 3}}}
    )] == pytest.approx([1e-5, 1e-4, 1e-3])  # fmt: skip


def test_a_random_search_draws_its_points_from_the_seed():
    tree = {
        "search": "random",
        "samples": 5,
        "axes": {"batch.alpha": {"low": 0, "high": 1}, "loss.symmetric": [True, False]},
    }
    assert points(tree) == points(tree)
    assert len(points(tree)) == 5
    assert points(tree) != points(tree, parse_experiment({"seed": 1}, "test"))


def test_a_trial_is_named_by_what_it_trains_alone():
    a = trial_experiment(BASE, {"batch.alpha": 0.5}, 0)
    assert trial_name(a) == trial_name(trial_experiment(BASE, {"recipe": "hybrid"}, 0))
    assert trial_name(a) == trial_name(a.model_copy(update={"out": "elsewhere", "store": "moved"}))
    assert trial_name(a) != trial_name(trial_experiment(BASE, {"batch.alpha": 0.5}, 1))
    assert trial_name(a) != trial_name(trial_experiment(BASE, {"batch.alpha": 0.4}, 0))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"axes": {"batch.alfa": [0]}}, "unknown key 'batch.alfa'; did you mean 'batch.alpha'"),
        ({"axes": {"batch.alpha": []}}, r"axes.batch.alpha: give a list of values, a range .*got \[\]"),
        ({"axes": {"batch.alpha": {"low": 1, "high": 0}}}, "the range from 1 to 0 is empty"),
        ({"axes": {"batch.alpha": {"low": 0, "high": 1}}}, "a grid needs to know how many points"),
        ({"axes": {"batch.alpha": [2]}}, "batch.alpha: input should be less than or equal to 1, got 2"),
        ({"axes": {"batch.mix": {"simplex": KINDS, "step": 0.3}}}, "weights in steps of 0.3 cannot sum to 1"),
        ({"axes": {"batch.mix": {"simplex": {"monolingual": [0.6, 1], "cross_lingual": [0.7, 1]}, "step": 0.1}}},
         "sum to between 1.3 and 2, and cannot sum to 1"),
        ({"axes": {"batch.mix": {"simplex": {"monolingual": [0, 0.2], "cross_lingual": [0, 0.3]}, "step": 0.1}}},
         "sum to between 0 and 0.5, and cannot sum to 1"),
        ({"axes": {"batch.mix": {"simplex": ["monolingual"], "step": 0.5}}}, "a simplex needs two kinds or three"),
        ({"axes": {"batch.alpha": {"simplex": KINDS, "step": 0.5}}}, "a simplex is for batch.mix"),
        ({"axes": {"batch.mix": [{"monolingual": 0}]}}, "mix must have a positive weight"),
        ({"axes": {"recipe": ["hybird"]}}, "unknown mix or recipe 'hybird'"),
        ({"axes": {"seed": [1]}}, "seed cannot be an axis: set seeds"),
        ({"axes": {}}, "axes is empty"),
        ({"axes": {"batch.alpha": [0]}, "seeds": [1, 1]}, "seeds must differ"),
        ({"axes": {"batch.alpha": [0]}, "search": "random"}, "search=random needs samples"),
        ({"axes": {"batch.alpha": [0]}, "samples": 3}, "search=grid needs no samples"),
        ({"axis": {"batch.alpha": [0]}}, "unknown key 'axis' in a search space"),
    ],
)  # fmt: skip
def test_a_space_that_cannot_work_is_refused(tree, message):
    with pytest.raises(InputError, match=message):
        points(tree)


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(InputError, match="no search space at"):
        load_space(tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_text("axes: [", encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.yaml is not readable YAML"):
        load_space(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("- 1", encoding="utf-8")
    with pytest.raises(InputError, match="must hold a mapping"):
        load_space(tmp_path / "b.yaml")


def test_labels_are_what_a_table_has_room_for():
    assert point_label({"batch.alpha": 0.25, "encoder.name": "tiny"}) == "alpha=0.25 name=tiny"
    assert point_label({"batch.mix": {"monolingual": 0.5, "multilingual": 0.5}}) == "mix 0.5/0/0.5"
    assert point_label({"recipe": "simcse", "train.learning_rate": 0.0001234}) == "simcse learning_rate=0.000123"
