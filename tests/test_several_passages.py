"""Groups with several passages and hard negatives: what a store keeps of them, and what a batch draws."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_group, write_store
from transformers import BatchEncoding

from hybrid_ir.batches.builder import BatchBuilder
from hybrid_ir.batches.from_experiment import builder_for, plan_for
from hybrid_ir.config.loading import parse_experiment
from hybrid_ir.data.store import Store, open_store
from hybrid_ir.encoders.tokens import TextReader
from hybrid_ir.types import Group, InputError, Passage, key64

LANGUAGES = ("de", "en", "es")


def passages_of(number: int, what: str, count: int) -> dict[str, tuple[Passage, ...]]:
    """PASSAGE k of a group in a language is `what-number-k` there, which is its id with the language before it."""
    return {
        x: tuple(Passage(f"{x}/{what}-{number}-{k}", f"{what}-{number}-{k}") for k in range(count)) for x in LANGUAGES
    }


def group(number: int) -> Group:
    """It has 1 to 3 passages and 1 to 5 negatives in each language."""
    plain = make_group(number, LANGUAGES)
    return Group(
        plain.group_id,
        plain.document,
        plain.queries,
        passages_of(number, "yes", 1 + number % 3),
        passages_of(number, "no", 1 + number % 5),
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    folder = tmp_path_factory.mktemp("several") / "store"
    write_store(folder, [group(n) for n in range(60)], validation_fraction=0, test_fraction=0)
    return open_store(str(folder))


def letters(texts, **_):
    """A tokenizer whose tokens are the characters."""
    return BatchEncoding({"input_ids": [[ord(c) for c in text] for text in texts]})


def builder(store: Store, kind: str = "cross_lingual", seed: int = 0, **batch: Any) -> BatchBuilder:
    settings = {"size": 12, "mix": {kind: 1.0}, **batch}
    experiment = parse_experiment({"seed": seed, "batch": settings, "loss": {"negatives": "in_batch_and_hard"}}, "test")
    reader = TextReader(letters, {"query": "", "document": ""}, 1000)
    return builder_for(experiment, store, plan_for(store, experiment), reader)


def texts(tokens) -> list[str]:
    return ["".join(map(chr, each)) for each in tokens]


def numbers_of(batch: Any) -> list[int]:
    """The group of each row, from its question: "what is 7 in en?"."""
    return [int(text.split()[2]) for text in texts(batch.query_tokens)]


def test_a_store_keeps_all_passages_and_negatives_in_their_order(store):
    (partition,) = store.partitions
    assert (partition.rows, partition.negatives, partition.most_negatives) == (60, True, 5)
    rows = np.arange(60)
    for at, name in enumerate(store.take(0, rows, "group_id")):
        whole = group(int(name.removeprefix("tiny:g")))
        for x in LANGUAGES:
            for half, passages in (("p", whole.passages[x]), ("n", whole.negatives[x])):
                assert store.take(0, rows[at : at + 1], f"{half}_{x}") == [[p.text for p in passages]]
                assert store.take(0, rows[at : at + 1], f"{half}_id_{x}") == [[p.doc_id for p in passages]]
    assert sorted(store.texts()) == sorted(
        text
        for n in range(60)
        for x in LANGUAGES
        for text in (group(n).queries[x], *(p.text for p in (*group(n).passages[x], *group(n).negatives[x])))
    )


def test_a_held_out_question_is_answered_by_each_of_its_passages(tmp_path):
    write_store(tmp_path / "s", [group(n) for n in range(60)], test_fraction=0.3)
    collection = open_store(str(tmp_path / "s")).collection("test")
    numbers = {int(query.group_id.removeprefix("tiny:g")) for query in collection.queries}
    assert {(c.doc_id, c.language) for c in collection.candidates} == {
        (f"tiny:{p.doc_id}", x) for n in numbers for x in LANGUAGES for p in group(n).passages[x]
    }
    for candidate in collection.candidates:
        assert candidate.group_ids == (f"tiny:g{candidate.text.split('-')[1]}",)


def test_a_batch_draws_one_passage_of_each_row_and_in_the_end_all(store):
    build, drawn = builder(store).build, set()
    for step in range(100):
        batch = build(step)
        found = texts(batch.passage_tokens)
        drawn.update(found)
        for number, text in zip(numbers_of(batch), found, strict=True):
            assert text in {p.text for p in group(number).passages["en"]}
    assert drawn == {p.text for n in range(60) for p in group(n).passages["en"]}


def test_each_passage_is_drawn_as_often(store):
    """Of 1,200 rows 400 are of groups with three passages: four standard deviations of a fair draw are 38."""
    build = builder(store).build
    found = [text.split("-") for step in range(100) for text in texts(build(step).passage_tokens)]
    counts = np.bincount([int(k) for _, number, k in found if int(number) % 3 == 2])
    assert counts.sum() == 400
    assert np.abs(counts - 400 / 3).max() < 38


def test_the_ids_of_a_row_are_all_of_its_group_and_the_drawn_one_is_first(store):
    for step in range(10):
        batch = builder(store).build(step)
        answered = sorted({language for _, language in batch.pairs})
        assert batch.passage_ids_BLS.shape == (12, len(answered), 3)
        drawn = texts(batch.passage_tokens)
        for row, number in enumerate(numbers_of(batch)):
            for at, language in enumerate(answered):
                ids = batch.passage_ids_BLS[row, at].tolist()
                keys = [key64(p.doc_id) for p in group(number).passages[language]]
                assert sorted(ids) == sorted([*keys, *[-1] * (3 - len(keys))])
                assert -1 not in ids[: len(keys)]
            own = batch.passage_language_B[row]
            assert batch.passage_ids_BLS[row, own, 0] == key64(f"{answered[own]}/{drawn[row]}")


@pytest.mark.parametrize("asked", [1, 3, 5])
def test_a_row_has_as_many_negatives_as_are_asked_for_or_all_that_it_has(store, asked):
    build, drawn = builder(store, hard_negatives=asked).build, set()
    for step in range(400):  # 80 draws of each group
        batch = build(step)
        assert batch.negative_ids_N is not None
        rows = [] if batch.negative_row_N is None else batch.negative_row_N.tolist()
        assert rows == sorted(rows)
        found = texts(batch.negative_tokens)
        drawn.update(found)
        answered = [language for _, language in batch.pairs]
        assert batch.negative_ids_N.tolist() == [
            key64(f"{answered[row]}/{text}") for row, text in zip(rows, found, strict=True)
        ]
        for row, number in enumerate(numbers_of(batch)):
            own = [text for at, text in zip(rows, found, strict=True) if at == row]
            assert len(set(own)) == len(own) == min(asked, 1 + number % 5)
            assert set(own) <= {p.text for p in group(number).negatives["en"]}
    assert drawn == {p.text for n in range(60) for p in group(n).negatives["en"]}


def test_the_negatives_of_ranks_are_those_of_their_rows(store):
    batch = builder(store, hard_negatives=5).build(0)
    assert batch.negative_row_N is not None
    of_row = np.bincount(batch.negative_row_N, minlength=12)
    assert batch.negative_sizes(5) == [of_row[:3].sum(), of_row[3:6].sum(), *of_row[6:].reshape(3, 2).sum(axis=1)]


def drawn_at(store: Store, step: int, seed: int = 0) -> tuple[list[str], list[str]]:
    batch = builder(store, seed=seed, hard_negatives=2).build(step)
    return texts(batch.passage_tokens), texts(batch.negative_tokens)


def test_what_is_drawn_depends_on_the_seed_and_the_step_alone(store):
    """A builder that built other steps before draws the same; another epoch or seed draws others."""
    build = builder(store, hard_negatives=2).build
    later, first = build(7), build(3)
    for step, batch in ((7, later), (3, first)):
        assert drawn_at(store, step) == (texts(batch.passage_tokens), texts(batch.negative_tokens))
    passages = {}
    for step in range(20):
        batch = build(step)
        for number, text in zip(numbers_of(batch), texts(batch.passage_tokens), strict=True):
            passages.setdefault(number, set()).add(text)
    assert {number for number, found in passages.items() if len(found) == 1} < set(passages)
    assert drawn_at(store, 3, seed=1) != drawn_at(store, 3)


def test_batches_of_one_passage_and_one_negative_a_group_are_as_before(tmp_path):
    """Pinned: what the version before lists of passages gave for this store, hash and batches."""
    groups = [make_group(n, negatives=True) for n in range(60)]
    manifest = write_store(tmp_path / "s", groups, test_fraction=0, validation_fraction=0)
    assert manifest["content_hash"] == "acab207383550256f93b7e5565ca00c1"
    store, digest = open_store(str(tmp_path / "s")), hashlib.blake2b(digest_size=8)
    for kind in ("monolingual", "cross_lingual"):
        build = builder(store, kind, size=10).build
        for step in range(12):
            batch = build(step)
            assert batch.negative_tokens is not None
            tokens = (batch.query_tokens.flat, batch.passage_tokens.flat, batch.negative_tokens.flat)
            for each in (*tokens, batch.passage_ids_BLS, batch.query_ids_BM, batch.negative_ids_N):
                digest.update(np.ascontiguousarray(each).tobytes())
    assert digest.hexdigest() == "f9028c3c5fa1980b"


def as_format_1(root: Path) -> None:
    """The store as older versions wrote it: a text where there is a list of one now."""
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["format"] = 1
    for partition in manifest["partitions"]:
        del partition["most_negatives"]
        for file in partition["files"]:
            table = pq.read_table(root / file["path"])
            lists = [name for name in table.column_names if pa.types.is_list(table.schema.field(name).type)]
            for name in lists:
                texts = [text for (text,) in table[name].to_pylist()]
                table = table.set_column(table.column_names.index(name), name, pa.array(texts))
            assert lists
            pq.write_table(table, root / file["path"], write_page_checksum=True, row_group_size=1024)
            file["bytes"] = (root / file["path"]).stat().st_size
    (root / "manifest.json").write_text(json.dumps(manifest))


def test_a_store_of_an_older_version_opens_and_gives_the_same(tmp_path):
    groups = [make_group(n, negatives=True) for n in range(60)]
    for name in ("new", "old"):
        write_store(tmp_path / name, groups, test_fraction=0, validation_fraction=0)
    as_format_1(tmp_path / "old")
    new, old = (open_store(str(tmp_path / name)) for name in ("new", "old"))
    rows = np.arange(60)
    for column in ("group_id", "q_en", "p_en", "p_id_de", "n_es", "n_id_es"):
        assert old.take(0, rows, column) == new.take(0, rows, column)
    assert sorted(old.texts()) == sorted(new.texts())
    for step in range(3):
        a, b = builder(new).build(step), builder(old).build(step)
        assert texts(a.passage_tokens) == texts(b.passage_tokens)
        assert texts(a.negative_tokens) == texts(b.negative_tokens)
        assert np.array_equal(a.passage_ids_BLS, b.passage_ids_BLS)


def test_more_negatives_than_any_group_has_are_refused_and_so_are_some_that_the_loss_leaves_out(store):
    with pytest.raises(InputError, match=r"no group of .* has more than 5 in a language; set batch.hard_negatives=5"):
        builder(store, hard_negatives=6)
    experiment = parse_experiment({"batch": {"size": 12, "hard_negatives": 2}}, "test")
    with pytest.raises(InputError, match=r"hard_negatives=2 needs a loss that has them; set loss.negatives="):
        plan_for(store, experiment)
