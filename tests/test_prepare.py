"""Prepare: a store that depends on its groups and seed alone, splits that cut no document, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import subprocess
import sys
from collections import Counter
from functools import partial
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import make_group, write_store
from hypothesis import given, settings, strategies as st
from readers import DATA, needs_data

from hybrid_ir.config.sources import AtlasSource, LareqaSource, RecordsSource
from hybrid_ir.data.inputs import Input, inputs_for
from hybrid_ir.data.prepare import prepare
from hybrid_ir.data.sources.lareqa import lareqa_collection
from hybrid_ir.data.splits import SMALL_PARTITION, assign_splits, partition_signatures
from hybrid_ir.data.store import open_store
from hybrid_ir.types import Group, InputError, Passage, Rejected


def prepare_sources(sources, path, *, validation_fraction=0.0, test_fraction=0.25, seed=0):
    return prepare(
        inputs_for(sources),
        str(path),
        seed=seed,
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        settings={},
    )


def rows_of(store, column):
    return [v for i, p in enumerate(store.partitions) for v in store.take(i, np.arange(p.rows), column)]


def split_table(path):
    return {row["document"]: row["split"] for row in pq.read_table(path / "splits.parquet").to_pylist()}


def rejected_lines(path, source="tiny"):
    return [json.loads(line) for line in (path / "rejected" / f"{source}.jsonl").read_text("utf-8").splitlines()]


# Order and splits


def test_the_same_groups_in_another_order_give_the_same_store(tmp_path, tiny_groups):
    shuffled = list(tiny_groups)
    random.Random(1).shuffle(shuffled)
    a, b = write_store(tmp_path / "a", tiny_groups), write_store(tmp_path / "b", shuffled)
    assert a == b
    assert split_table(tmp_path / "a") == split_table(tmp_path / "b")
    assert rows_of(open_store(str(tmp_path / "a")), "q_en") == rows_of(open_store(str(tmp_path / "b")), "q_en")
    for split in ("validation", "test"):
        files = [(tmp_path / x / "eval" / split / "candidates.parquet").read_bytes() for x in "ab"]
        assert files[0] == files[1]


def test_of_two_groups_with_one_id_the_same_is_kept_whatever_the_order(tmp_path):
    groups = [make_group(n) for n in range(40)]
    other = make_group(99)
    twin = Group("g0", "d0", other.queries, other.passages)
    a = write_store(tmp_path / "a", [*groups, twin], test_fraction=0, validation_fraction=0)
    b = write_store(tmp_path / "b", [twin, *groups], test_fraction=0, validation_fraction=0)
    assert a["content_hash"] == b["content_hash"]


def test_another_seed_gives_another_order_and_other_splits(tmp_path, tiny_groups, tiny_store):
    write_store(tmp_path / "b", tiny_groups, seed=1)
    other = open_store(str(tmp_path / "b"))
    assert other.content_hash != tiny_store.content_hash
    assert other.manifest["groups"] == tiny_store.manifest["groups"] == {"train": 280, "validation": 40, "test": 80}
    assert rows_of(other, "group_id") != rows_of(tiny_store, "group_id")
    assert {q.group_id for q in other.collection("test").queries} != {
        q.group_id for q in tiny_store.collection("test").queries
    }


def test_the_store_is_shuffled(tiny_store):
    numbers = [int(g.removeprefix("tiny:g")) for g in rows_of(tiny_store, "group_id")]
    assert sum(a < b for a, b in pairwise(numbers)) < 0.6 * len(numbers)


def test_no_document_is_in_two_splits_and_no_group_is_lost(tiny_store):
    documents = {"train": set(rows_of(tiny_store, "document"))}
    groups = {"train": set(rows_of(tiny_store, "group_id"))}
    for split in ("validation", "test"):
        collection = tiny_store.collection(split)
        documents[split] = {c.document for c in collection.candidates}
        groups[split] = {q.group_id for q in collection.queries}
    assert sum(len(d) for d in documents.values()) == len(set.union(*documents.values())) == 100
    assert set.union(*groups.values()) == {f"tiny:g{n}" for n in range(400)}
    assert {x: len(d) for x, d in documents.items()} == {"train": 70, "validation": 10, "test": 20}


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 60), st.integers(0, 3), st.floats(0, 0.5), st.floats(0, 0.49))
def test_splits_have_their_share_of_the_documents_to_the_nearest(number, seed, validation, test):
    documents = {f"d{n}" for n in range(number)}
    split_of = assign_splits([(d, None) for d in documents], seed, validation, test)
    assert set(split_of) == documents
    counts = Counter(split_of.values())
    assert counts["test"] == round(test * len(documents))
    assert counts["validation"] == min(round(validation * len(documents)), len(documents) - counts["test"])
    assert split_of == assign_splits([(d, None) for d in sorted(documents, reverse=True)], seed, validation, test)


def test_a_source_for_training_is_trained_on_whole(tmp_path, tiny_groups):
    manifest = write_store(tmp_path / "s", tiny_groups, use="train")
    assert manifest["groups"] == {"train": 400}
    assert manifest["eval"] == {}
    assert set(split_table(tmp_path / "s").values()) == {"train"}


def test_a_source_for_validation_is_held_out_whole_and_leaves_the_fractions_of_the_others_alone(tmp_path):
    """As the paper stops early: on English questions of another data set (SQuADShifts)."""
    english = [make_group(n, ("en",)) for n in range(40)]
    manifest = prepare(
        [
            Input("a", lambda: iter([make_group(n) for n in range(40)])),
            Input("b", lambda: iter(english), use="validation"),
        ],
        str(tmp_path / "s"),
        seed=0,
        validation_fraction=0,
        test_fraction=0.2,
        settings={},
    )
    assert manifest["groups"] == {"train": 32, "test": 8, "validation": 40}
    store = open_store(str(tmp_path / "s"))
    validation = store.collection("validation")
    assert {q.language for q in validation.queries} == {"en"}
    assert {c.doc_id.partition(":")[0] for c in validation.candidates} == {"b"}
    assert {q.group_id.partition(":")[0] for q in store.collection("test").queries} == {"a"}


def test_two_sources_with_the_same_ids_do_not_meet(tmp_path):
    groups = [make_group(n) for n in range(40)]
    manifest = prepare(
        [Input("a", lambda: iter(groups)), Input("b", lambda: iter(groups), use="train")],
        str(tmp_path / "s"),
        seed=0,
        validation_fraction=0,
        test_fraction=0.2,
        settings={"asked": 1},
    )
    assert manifest["groups"] == {"train": 32 + 40, "test": 8}
    assert manifest["settings"] == {"asked": 1}
    queries = open_store(str(tmp_path / "s")).collection("test").queries
    assert {q.group_id.partition(":")[0] for q in queries} == {"a"}


# Records that cannot be used


def test_duplicates_and_rejected_records_are_counted_and_kept_with_their_reasons(tmp_path):
    bad = [Rejected("file:7", "empty query", "{}"), Rejected("file:9", "empty query", "a \udcff byte")]
    groups = [*(make_group(n) for n in range(40)), make_group(3), make_group(3), make_group(5)]
    manifest = write_store(tmp_path / "s", [bad[0], *groups, bad[1]])
    assert manifest["sources"]["tiny"]["rejected"] == {"empty query": 2, "duplicate group_id": 3}
    assert manifest["sources"]["tiny"]["groups"] == 40 == sum(manifest["groups"].values())
    lines = rejected_lines(tmp_path / "s")
    assert lines[:2] == [r._asdict() for r in bad]
    assert sorted(line["where"] for line in lines[2:]) == ["tiny:g3", "tiny:g3", "tiny:g5"]
    assert {line["reason"] for line in lines[2:]} == {"duplicate group_id"}


def test_malformed_json_lines_are_kept_with_their_line_and_reason(tmp_path):
    good = [{"queries": {"en": f"Q{n}?"}, "passages": {"en": f"P{n}."}} for n in range(5)]
    lines = [*map(json.dumps, good), '{"queries": ', '["a list"]', '{"queries": {"en": ""}, "passages": {"en": "P"}}']
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))
    source = RecordsSource(kind="records", path=str(tmp_path / "mine.jsonl"))
    manifest = prepare_sources([source], tmp_path / "s")
    assert manifest["sources"]["records"]["groups"] == 5
    assert [(r["where"], r["reason"]) for r in rejected_lines(tmp_path / "s", "records")] == [
        ("mine.jsonl:6", "not valid JSON"),
        ("mine.jsonl:7", "not a JSON object"),
        ("mine.jsonl:8", "empty query"),
    ]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "source 'tiny' has no good group; it is empty"),
        (
            [Rejected("1", "not valid JSON", "x")] * 3 + [Rejected("4", "empty query", "y")],
            "no good group; all 4 records were rejected: 3 x not valid JSON; 1 x empty query",
        ),
    ],
)
def test_a_source_with_nothing_good_is_an_error_and_leaves_nothing(tmp_path, records, message):
    with pytest.raises(InputError, match=message):
        write_store(tmp_path / "deep" / "down" / "s", records)
    assert list(tmp_path.iterdir()) == []


def test_fractions_that_leave_nothing_to_train_on_are_an_error(tmp_path):
    groups = [make_group(n, per_document=1) for n in range(3)]
    with pytest.raises(InputError, match=r"nothing is left to train on; lower prepare.test_fraction"):
        write_store(tmp_path / "s", groups, test_fraction=0.5, validation_fraction=0.4)
    assert list(tmp_path.iterdir()) == []


# What stands in the store's place


def interrupted(groups, error):
    yield from groups
    raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("broken"), InputError("unreadable")])
def test_an_interrupted_prepare_leaves_nothing_behind_and_an_old_store_untouched(tmp_path, error):
    groups = [make_group(n) for n in range(40)]

    def run(path):
        source = Input("tiny", partial(interrupted, groups, error))
        prepare([source], str(path), seed=1, validation_fraction=0, test_fraction=0.2, settings={})

    with pytest.raises(type(error)):
        run(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    manifest = write_store(tmp_path / "old", groups)
    with pytest.raises(type(error)):
        run(tmp_path / "old")
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
    assert open_store(str(tmp_path / "old")).manifest == manifest


def test_a_store_is_replaced_whole(tmp_path):
    groups = [make_group(n) for n in range(40)]
    write_store(tmp_path / "s", groups)
    write_store(tmp_path / "s", groups, validation_fraction=0)
    assert sorted(p.name for p in (tmp_path / "s" / "eval").iterdir()) == ["test"]
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_what_a_killed_prepare_left_is_removed_and_two_at_once_are_refused(tmp_path):
    groups = [make_group(n) for n in range(40)]
    (tmp_path / "s.partial" / "train").mkdir(parents=True)
    (tmp_path / "s.partial" / "splits.parquet").touch()
    write_store(tmp_path / "s", groups)
    assert [p.name for p in tmp_path.iterdir()] == ["s"]

    def records():
        with pytest.raises(InputError, match=r"another process is writing .*/s; wait, or choose another store="):
            write_store(tmp_path / "s", groups)
        yield from groups

    prepare([Input("a", records)], str(tmp_path / "s"), seed=0, validation_fraction=0, test_fraction=0.2, settings={})
    assert open_store(str(tmp_path / "s")).manifest["groups"]["train"] == 32


def test_a_prepare_that_is_killed_at_any_moment_leaves_a_whole_store_and_goes_on(tmp_path):
    """`killed_prepares.py` says what is checked. Here at moments by chance, and at the first and the last."""
    chance = random.Random(0)
    shares = [0.0, 0.999, *(chance.random() for _ in range(8)), *(chance.uniform(0.9, 1) for _ in range(4))]
    for name, numbers in {"old": range(60), "new": range(5, 90)}.items():
        good = [{"group_id": n, "queries": {"en": f"Q{n}?"}, "passages": {"en": f"P{n // 2}."}} for n in numbers]
        (tmp_path / f"{name}.jsonl").write_text("\n".join([*map(json.dumps, good), "{not json"]))
    program = [sys.executable, str(Path(__file__).with_name("killed_prepares.py")), str(tmp_path), *map(str, shares)]
    done = subprocess.run(
        program, capture_output=True, text=True, timeout=200, env=os.environ | {"TMPDIR": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    assert "stood: new old" in done.stdout
    assert not list(tmp_path.glob("hybrid-ir-prepare-*")), "what was scattered on the disk is gone too"


@pytest.mark.parametrize("limit", [100, 3000, 9000])
def test_a_place_that_takes_no_more_is_said_in_a_sentence_and_leaves_the_old_store(tmp_path, limit):
    """A limit of the system on the size of a file is where writing fails: early, or after some files."""
    write_store(tmp_path / "s", [make_group(n) for n in range(40)])
    whole = {p: p.read_bytes() for p in (tmp_path / "s").rglob("*") if p.is_file()}
    rows = [{"queries": {"en": f"Q{n}?"}, "passages": {"en": f"P{n * 7919}."}} for n in range(3000)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = [f"prepare.sources=[{{kind: records, path: {tmp_path}/mine.jsonl}}]", f"store={tmp_path}/s"]
    command = [sys.executable, "-m", "hybrid_ir.cli", "prepare", *words]

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(command, capture_output=True, text=True, timeout=200, preexec_fn=limited)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: cannot write the store at {tmp_path}/s (")
    assert "File too large" in done.stderr
    assert done.stderr.count("\n") == 1
    assert {p: p.read_bytes() for p in (tmp_path / "s").rglob("*") if p.is_file()} == whole
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.jsonl", "s"]


def test_a_full_disk_is_said_as_one_and_leaves_the_old_store(tmp_path, monkeypatch):
    manifest = write_store(tmp_path / "s", [make_group(n) for n in range(40)])

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_store(tmp_path / "s", [make_group(n) for n in range(20)])
    assert open_store(str(tmp_path / "s")).manifest == manifest
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_a_link_to_a_store_still_leads_to_it(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    manifest = write_store(tmp_path / "link", [make_group(n) for n in range(40)])
    assert (tmp_path / "link").is_symlink()
    assert open_store(str(tmp_path / "there")).manifest == manifest


@pytest.mark.parametrize(
    ("name", "content"),
    [("notes.txt", "mine"), ("manifest.json", '{"experiment": {}, "steps": 300}'), ("manifest.json", "{")],
)
def test_a_folder_that_is_not_a_store_is_left_alone(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match="holds something that is not a store, so it is left alone; choose another"):
        write_store(tmp_path, [make_group(0)])
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == content


def test_a_file_in_the_store_s_place_is_left_alone(tmp_path):
    (tmp_path / "s").write_text("mine")
    with pytest.raises(InputError, match="is a file; choose another folder"):
        write_store(tmp_path / "s", [make_group(0)])
    with pytest.raises(InputError, match=r"cannot write a store at .*/s/below: Not a directory; choose another"):
        write_store(tmp_path / "s" / "below", [make_group(0)])
    assert (tmp_path / "s").read_text() == "mine"


# Partitions


def test_a_rare_signature_is_folded_into_the_largest_that_it_covers():
    counts = Counter(
        {
            (("de", "en", "es"), False): SMALL_PARTITION - 1,
            (("de", "en"), False): SMALL_PARTITION,
            (("en", "es"), False): SMALL_PARTITION + 1,
            (("en",), False): 3,
            (("fr", "it"), False): 4,
        }
    )
    target = partition_signatures(counts)
    assert target.pop((("de", "en", "es"), False)) == (("en", "es"), False)
    assert all(kept == signature for signature, kept in target.items())


def test_a_fold_goes_on_when_its_target_is_rare_too():
    counts = Counter({(("a", "b", "c", "d"), False): 1, (("a", "b", "c"), False): 1, (("a", "b"), False): 1})
    assert set(partition_signatures(counts).values()) == {(("a", "b"), False)}


def test_groups_with_negatives_are_folded_to_those_without_only_when_rare():
    many, few = SMALL_PARTITION, 5
    signature, plain = (("de", "en"), True), (("de", "en"), False)
    assert partition_signatures(Counter({signature: many, plain: many}))[signature] == signature
    assert partition_signatures(Counter({signature: few, plain: many}))[signature] == plain
    # The other way round there would be no negative to store.
    assert partition_signatures(Counter({signature: many, plain: few}))[plain] == plain


def test_odd_groups_are_stored_with_the_languages_they_share(tmp_path):
    groups = [make_group(n, ("de", "en")) for n in range(300)] + [make_group(n) for n in range(300, 320)]
    manifest = write_store(tmp_path / "s", groups, test_fraction=0, validation_fraction=0)
    assert [(p["languages"], p["rows"]) for p in manifest["partitions"]] == [(["de", "en"], 320)]
    assert manifest["language_versions_unused"] == 20
    assert manifest["languages"] == {"de": 320, "en": 320}


def test_groups_keep_their_negatives(tmp_path):
    with_all = [make_group(n, negatives=True) for n in range(300)]
    partial_ones = [
        Group(g.group_id, g.document, g.queries, g.passages, {"en": (Passage("en/x", "x"),)})
        for g in (make_group(n) for n in range(300, 600))
    ]
    write_store(tmp_path / "s", [*with_all, *partial_ones], test_fraction=0, validation_fraction=0)
    store = open_store(str(tmp_path / "s"))
    assert sorted((p.negatives, p.rows) for p in store.partitions) == [(False, 300), (True, 300)]
    (have,) = [i for i, p in enumerate(store.partitions) if p.negatives]
    rows = np.arange(300)
    for group_id, text in zip(store.take(have, rows, "group_id"), store.take(have, rows, "n_es"), strict=True):
        assert text[0] == f"{group_id.removeprefix('tiny:g')} in es is not this."


# Held-out pools


def test_every_held_out_query_has_one_relevant_candidate_in_each_language(tiny_store):
    collection = tiny_store.collection("test")
    relevant = Counter((g, c.language) for c in collection.candidates for g in c.group_ids)
    assert set(relevant) == {(q.group_id, x) for q in collection.queries for x in ("de", "en", "es")}
    assert set(relevant.values()) == {1}


def test_groups_that_share_a_passage_share_a_candidate(tmp_path):
    shared = {x: (Passage(f"{x}/one", f"one {x}"),) for x in ("de", "en")}
    groups = [Group(f"g{n}", f"d{n // 4}", {x: f"{n} {x}?" for x in shared}, shared) for n in range(40)]
    write_store(tmp_path / "s", groups)
    candidates = open_store(str(tmp_path / "s")).collection("test").candidates
    assert [c.language for c in candidates] == ["de", "en"]
    assert all(len(c.group_ids) == 8 for c in candidates)


@pytest.fixture(scope="module")
def atlas_store(tmp_path_factory):
    path = tmp_path_factory.mktemp("atlas") / "store"
    prepare_sources([AtlasSource(kind="atlas", languages=("en", "ar"))], path, test_fraction=0.15)
    return open_store(str(path))


def test_the_atlas_test_has_distractors_and_one_relevant_candidate_a_query_and_language(atlas_store):
    collection = atlas_store.collection("test")
    relevant = Counter((g, c.language) for c in collection.candidates for g in c.group_ids)
    assert set(relevant) == {(q.group_id, x) for q in collection.queries for x in ("en", "ar")}
    assert set(relevant.values()) == {1}
    distractors = sum(not c.group_ids for c in collection.candidates)
    assert distractors > len(collection.queries) / 2


def test_no_question_or_fact_of_the_atlas_test_was_trained_on(atlas_store):
    collection = atlas_store.collection("test")
    for language in ("en", "ar"):
        trained = set(rows_of(atlas_store, f"q_{language}"))
        assert not trained & {q.text for q in collection.queries}
        trained = set(chain(*rows_of(atlas_store, f"p_{language}")))
        assert not trained & {c.text for c in collection.candidates if c.group_ids}


@pytest.fixture(scope="module")
def xquad_store(tmp_path_factory):
    path = tmp_path_factory.mktemp("xquad") / "store"
    prepare_sources([LareqaSource(kind="lareqa", path=str(DATA / "xquad-r"), languages=("en", "zh", "ar"))], path)
    return path


@needs_data
def test_xquad_r_trains_on_36_of_its_48_articles_and_tests_on_whole_pools_of_12(xquad_store):
    assert Counter(split_table(xquad_store).values()) == {"train": 36, "test": 12}
    store = open_store(str(xquad_store))
    collection = store.collection("test")
    assert len({c.document for c in collection.candidates}) == 12
    relevant = Counter((g, c.language) for c in collection.candidates for g in c.group_ids)
    assert set(relevant) == {(q.group_id, x) for q in collection.queries for x in ("ar", "en", "zh")}
    assert set(relevant.values()) == {1}
    # Every sentence of these articles is a candidate, those included that answer nothing.
    whole = lareqa_collection(DATA / "xquad-r", "whole", ("en", "zh", "ar")).candidates
    tested = {c.document.removeprefix("lareqa:") for c in collection.candidates}
    assert Counter((c.language, c.text) for c in collection.candidates) == Counter(
        (c.language, c.text) for c in whole if c.document in tested
    )
    assert any(not c.group_ids for c in collection.candidates)
    assert store.manifest["groups"]["train"] + store.manifest["groups"]["test"] == 1190


@needs_data
def test_no_text_of_xquad_r_s_test_was_trained_on(xquad_store):
    store = open_store(str(xquad_store))
    collection = store.collection("test")
    for language in ("en", "zh", "ar"):
        assert not set(rows_of(store, f"q_{language}")) & {q.text for q in collection.queries}
        assert not set(chain(*rows_of(store, f"p_{language}"))) & {c.text for c in collection.candidates}
