"""What chooses a checkpoint must have a value on the store's validation split: checked before anything starts."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp
from training_store import groups

from hybrid_ir.config.loading import load_experiment
from hybrid_ir.data.inputs import Input
from hybrid_ir.data.prepare import prepare
from hybrid_ir.data.store import Store, open_store
from hybrid_ir.training.validation import check_validation, of_rank_0, validation_collection
from hybrid_ir.types import Group, InputError


def store_of(path: Path, languages: list[list[str]], validation: float = 0.1) -> Store:
    """Groups whose languages alternate between the lists given."""

    def only(group: Group, kept: list[str]) -> Group:
        queries, passages = ({x: texts[x] for x in kept} for texts in (group.queries, group.passages))
        return replace(group, queries=queries, passages=passages)

    made = [only(group, languages[i % len(languages)]) for i, group in enumerate(groups(100))]
    inputs = [Input("houses", lambda: iter(made))]
    prepare(inputs, str(path), seed=0, validation_fraction=validation, test_fraction=0.1, settings={})
    return open_store(str(path))


def check(store: Store, measure: str) -> None:
    check_validation(load_experiment(None, [f"train.early_stopping_measure={measure}"]), store)


def test_ap_cross_of_one_language_is_refused(tmp_path: Path):
    store = store_of(tmp_path / "store", [["en"]])
    with pytest.raises(InputError, match=r"AP_cross has no value .*languages: en.*AP_mean, AP_mono, AP_multi"):
        check(store, "AP_cross")
    for measure in ("AP_mono", "AP_multi", "AP_mean"):
        check(store, measure)


def test_ap_cross_of_two_languages_without_a_group_in_both_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"AP_cross has no value"):
        check(store_of(tmp_path / "store", [["en"], ["de"]]), "AP_cross")


def test_parallel_languages_have_all_measures(tmp_path: Path):
    store = store_of(tmp_path / "store", [["en", "de"], ["es"]])
    for measure in ("AP_mono", "AP_cross", "AP_multi", "AP_mean"):
        check(store, measure)


def test_without_a_validation_split_nothing_is_chosen(tmp_path: Path):
    check(store_of(tmp_path / "store", [["en"]], validation=0.0), "AP_cross")


# What is measured on.


def validated(store: Store, *settings: str):
    return validation_collection(load_experiment(None, list(settings)), store)


def test_a_large_split_is_measured_on_by_as_many_groups_as_are_asked_for(tmp_path: Path):
    store = store_of(tmp_path / "store", [["en", "de"]], validation=0.4)
    whole = store.collection("validation")
    some = validated(store, "train.validation_groups=7")
    groups = {query.group_id for query in some.queries}
    assert len(groups) == 7
    assert [query for query in whole.queries if query.group_id in groups] == some.queries
    assert {group for candidate in some.candidates for group in candidate.group_ids} == groups
    assert some.languages == ("de", "en")
    again, other = (
        validated(store, "train.validation_groups=7"),
        validated(store, "train.validation_groups=7", "seed=1"),
    )
    assert again == some
    assert {query.group_id for query in other.queries} != groups


def test_a_split_that_is_small_enough_is_measured_on_whole(tmp_path: Path):
    store = store_of(tmp_path / "store", [["en", "de"]], validation=0.4)
    whole = store.collection("validation")
    for setting in ("null", "1000", str(len({query.group_id for query in whole.queries}))):
        assert validated(store, f"train.validation_groups={setting}") == whole


def test_without_a_split_there_is_nothing_to_measure_on(tmp_path: Path):
    assert validated(store_of(tmp_path / "store", [["en"]], validation=0.0)) is None


# How long rank 0 may take.


def _measure_slowly(rank: int, folder: str) -> None:
    limit = timedelta(seconds=1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2, timeout=limit)

    def measure() -> dict[str, float]:
        assert rank == 0
        time.sleep(2.5)
        return {"AP_mean": 0.5}

    assert of_rank_0(measure, rank, every_s=0.2) == {"AP_mean": 0.5}
    dist.destroy_process_group()
    (Path(folder) / f"{rank}").touch()


def test_a_validation_may_take_longer_than_a_collective(tmp_path: Path):
    mp.start_processes(_measure_slowly, args=(str(tmp_path),), nprocs=2, start_method="fork")
    assert (tmp_path / "0").exists()
    assert (tmp_path / "1").exists()
