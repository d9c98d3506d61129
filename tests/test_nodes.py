"""Waiting for nodes, and filling those that come: with a cluster's figures given, and no Ray."""

from __future__ import annotations

import pytest

from hybrid_ir.cluster import ray_nodes as nodes
from hybrid_ir.cluster.ray_nodes import cluster_for, cluster_for_trials
from hybrid_ir.config.loading import load_experiment
from hybrid_ir.tuning import ray_tuner as tuner
from hybrid_ir.types import InputError

NEEDS_TWO = load_experiment(None, ["train.workers=2", "train.cpus_per_worker=0.75", "train.cpus_per_data_actor=0.5"])


class Cluster:
    """One that has a CPU more at each look, and remembers what was asked of its autoscaler."""

    def __init__(self, monkeypatch, cpus=0.0, *, grows=True):
        self.cpus, self.grows, self.asked, self.withdrawn = cpus, grows, [], 0
        monkeypatch.setattr(nodes.ray, "cluster_resources", self.look)
        monkeypatch.setattr(nodes, "placement_group", lambda needs: self.asked.append(needs) or self)
        monkeypatch.setattr(nodes, "remove_placement_group", self.withdraw)
        monkeypatch.setattr(nodes, "LOOK_EVERY_S", 0.01)

    def look(self):
        self.cpus += self.grows
        return {"CPU": self.cpus}

    def wait(self, seconds):
        assert self.asked
        assert not self.withdrawn

    def withdraw(self, group):
        assert group is self
        self.withdrawn += 1


def test_a_cluster_that_holds_the_training_is_not_asked_for_more(monkeypatch):
    cluster = Cluster(monkeypatch)
    assert cluster_for(NEEDS_TWO, {"CPU": 2.0}, 60, pytest.fail) == {"CPU": 2.0}
    assert not cluster.asked


def test_without_waiting_it_is_refused_at_once_and_the_way_to_wait_is_named(monkeypatch):
    cluster = Cluster(monkeypatch)
    with pytest.raises(InputError, match=r"needs 2 CPUs.*the cluster has 1;.*--wait-for-nodes"):
        cluster_for(NEEDS_TWO, {"CPU": 1.0}, 0, pytest.fail)
    assert not cluster.asked


def test_nodes_are_asked_for_until_they_are_there(monkeypatch):
    cluster, said = Cluster(monkeypatch), []
    assert cluster_for(NEEDS_TWO, {}, 60, said.append) == {"CPU": 2.0}
    assert cluster.asked == [[{"CPU": 0.75}, {"CPU": 0.75}, {"CPU": 0.5}]]
    assert cluster.withdrawn == 1
    assert len(said) == 1
    assert "training needs 2 CPUs" in said[0]


def test_nodes_that_do_not_come_are_an_error_and_no_longer_asked_for(monkeypatch):
    cluster = Cluster(monkeypatch, grows=False)
    with pytest.raises(InputError, match=r"needs 2 CPUs.*the cluster has 0, after 1 s of waiting.*ray status"):
        cluster_for(NEEDS_TWO, {}, 1, lambda text: None)
    assert cluster.withdrawn == 1


def test_a_sweep_asks_for_the_trials_it_wants_at_a_time(monkeypatch):
    cluster = Cluster(monkeypatch)
    resources, most = cluster_for_trials(NEEDS_TWO, {"CPU": 2.5}, 2, 60, lambda text: None)
    assert (resources, most) == ({"CPU": 5.0}, 2)
    assert cluster.asked == [[{"CPU": 0.1}, {"CPU": 0.75}, {"CPU": 0.75}, {"CPU": 0.5}] * 2]
    assert cluster_for_trials(NEEDS_TWO, {"CPU": 6.3}, None, 0, pytest.fail) == ({"CPU": 6.3}, 3)
    with pytest.raises(InputError, match="holds 1 trials at a time, not 2; lower --at-a-time"):
        cluster_for_trials(NEEDS_TWO, {"CPU": 2.5}, 2, 0, pytest.fail)


def test_a_grid_fills_what_the_cluster_holds_at_the_moment(monkeypatch):
    now = {"CPU": 2.1}
    monkeypatch.setattr(tuner.ray, "cluster_resources", lambda: now)
    grid = tuner.FillingGrid(NEEDS_TWO, None)
    assert grid.max_concurrent == 1
    now["CPU"] = 6.5  # two nodes came
    assert grid.max_concurrent == 3
    now["CPU"] = 0.0  # all went
    assert grid.max_concurrent == 1
    assert tuner.FillingGrid(NEEDS_TWO, 2).max_concurrent == 2
    # Tune restores what a stopped sweep wrote; the cluster may be another one.
    now["CPU"] = 4.2
    state = grid.get_state()
    again = tuner.FillingGrid(NEEDS_TWO, None)
    again.set_state(state)
    assert again.max_concurrent == 2
