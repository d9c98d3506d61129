"""What a teacher says of a store's texts: kept as it was said, and given to the rows of a batch whose texts it is of.

The teachers here know a text by its hash: a vector of six values, and a score of a pair.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from checkpoints import make_cross_encoder
from conftest import make_group, write_store
from safetensors.numpy import load_file
from training_runs import Plain, experiment
from training_store import make_store
from transformers import BatchEncoding

from hybrid_ir.batches.builder import BatchBuilder
from hybrid_ir.batches.from_experiment import builder_for, plan_for
from hybrid_ir.batches.ray_feed import _pickled, _unpickled
from hybrid_ir.batches.teacher import check_dimension
from hybrid_ir.cli import app as cli
from hybrid_ir.config.loading import parse_experiment
from hybrid_ir.data.store import Store, open_store
from hybrid_ir.encoders.presets import create_encoder
from hybrid_ir.encoders.tokens import TextReader
from hybrid_ir.mining.job import mine_negatives
from hybrid_ir.mining.rules import Rules
from hybrid_ir.teaching.job import teach_scores, teach_vectors
from hybrid_ir.tuning.points import enumerate_points
from hybrid_ir.tuning.studies.study import load_study
from hybrid_ir.types import Group, InputError, Passage

LANGUAGES = ("de", "en", "es")
HARD = {"loss": {"negatives": "in_batch_and_hard"}, "batch": {"hard_negatives": 2}}


def passages_of(number: int, what: str, count: int) -> dict[str, tuple[Passage, ...]]:
    texts = {x: [f"{what}-{number}-{k} {x}" for k in range(count)] for x in LANGUAGES}
    return {x: tuple(Passage(text, text) for text in of) for x, of in texts.items()}


def group(number: int) -> Group:
    """It has 1 to 3 passages, and 1 to 5 negatives in each language."""
    plain = make_group(number, LANGUAGES)
    yes, no = passages_of(number, "yes", 1 + number % 3), passages_of(number, "no", 1 + number % 5)
    return Group(plain.group_id, plain.document, plain.queries, yes, no)


def vector_of(text: str, role: str) -> np.ndarray:
    """Six values of unit length."""
    seed = int.from_bytes(hashlib.blake2b(f"{role} {text}".encode(), digest_size=8).digest(), "big")
    vector = np.random.default_rng(seed).normal(size=6)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def encode(texts, *, role, languages=None):
    return np.stack([vector_of(text, role) for text in texts])


def scores(pairs):
    return np.array([10 * float(vector_of(q, "query") @ vector_of(p, "document")) for q, p in pairs], np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """60 groups with negatives in three languages, 300 in German alone."""
    folder = tmp_path_factory.mktemp("teaching") / "store"
    german = [make_group(n, ("de",)) for n in range(1000, 1300)]
    write_store(folder, [*(group(n) for n in range(60)), *german], validation_fraction=0.1, test_fraction=0)
    return open_store(str(folder))


@pytest.fixture(scope="module")
def encoders(store, tmp_path_factory) -> Store:
    """The store with vectors."""
    out = tmp_path_factory.mktemp("vectors") / "store"
    teach_vectors(store, str(out), encode, made={"name": "hash"})
    return open_store(str(out))


@pytest.fixture(scope="module")
def rerankers(store, tmp_path_factory) -> Store:
    """The store with scores of all pairs of languages."""
    out = tmp_path_factory.mktemp("scores") / "store"
    teach_scores(store, str(out), scores, pairs="all", made={"name": "hash"})
    return open_store(str(out))


def letters(texts, **_):
    """A tokenizer whose tokens are the characters."""
    return BatchEncoding({"input_ids": [[ord(c) for c in text] for text in texts]})


def settings(*sections: dict[str, dict[str, Any]], **batch: Any):
    tree: dict[str, Any] = {"batch": {"size": 12, **batch}, "loss": {}}
    for each in sections:
        tree = {name: {**tree[name], **each.get(name, {})} for name in tree}
    return parse_experiment(tree, "test")


def builder(store: Store, asked) -> BatchBuilder:
    reader = TextReader(letters, {"query": "", "document": ""}, 1000)
    return builder_for(asked, store, plan_for(store, asked), reader)


def texts(tokens) -> list[str]:
    return ["".join(map(chr, each)) for each in tokens]


def vectors(of: list[str], role: str) -> np.ndarray:
    return np.stack([vector_of(text, role) for text in of]).astype(np.float16)


def contents(folder: str) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in Path(folder).rglob("*") if f.is_file()}


def test_the_new_store_has_the_old_ones_files_and_the_teachers_beside_them(store, encoders):
    old, new = contents(store.path), contents(encoders.path)
    assert {name for name in old if old[name] != new[name]} == {"manifest.json"}
    assert {name.split("/")[0] for name in new.keys() - old.keys()} == {"teacher"}
    assert encoders.content_hash != store.content_hash
    assert encoders.manifest["taught"] == {
        "from": store.content_hash,
        "by": "encoder",
        "dimension": 6,
        "name": "hash",
    }
    assert len(encoders.partitions) > 1
    for partition in encoders.partitions:
        assert [f["rows"] for f in partition.teacher] == [f["rows"] for f in partition.files]


def test_other_answers_are_another_store(store, encoders, tmp_path):
    """Else a run that was stopped would go on with another teacher."""

    def other(texts, *, role, languages):
        return -encode(texts, role=role)

    assert teach_vectors(store, str(tmp_path / "a"), other, made={})["content_hash"] != encoders.content_hash
    assert teach_vectors(store, str(tmp_path / "b"), encode, made={})["content_hash"] == encoders.content_hash


@pytest.mark.parametrize("kind", ["monolingual", "cross_lingual", "multilingual"])
def test_a_batch_has_the_vectors_of_its_own_texts(encoders, kind):
    built = builder(encoders, settings(HARD, {"loss": {"teacher": "kl"}}, mix={kind: 1.0}))
    drawn: Counter[str] = Counter()
    for step in range(3):
        batch: Any = built.build(step)
        teacher = batch.teacher
        queries, passages = texts(batch.query_tokens), texts(batch.passage_tokens)
        np.testing.assert_array_equal(teacher.queries_BD, vectors(queries, "query"))
        np.testing.assert_array_equal(teacher.passages_BD, vectors(passages, "document"))
        np.testing.assert_array_equal(teacher.negatives_ND, vectors(texts(batch.negative_tokens), "document"))
        drawn.update(text.split()[0].rpartition("-")[2] for text in passages)
    assert set(drawn) == {"0", "1", "2"}  # and not always the first passage of a group


def test_a_batch_without_hard_negatives_has_no_vectors_of_them(encoders):
    batch: Any = builder(encoders, settings({"loss": {"teacher": "mse"}})).build(0)
    assert batch.teacher.negatives_ND is None
    assert batch.teacher.passages_BD.shape == (12, 6)


@pytest.mark.parametrize("kind", ["monolingual", "cross_lingual"])
def test_a_batch_has_the_scores_of_its_own_pairs(rerankers, kind):
    batch: Any = builder(rerankers, settings(HARD, {"loss": {"teacher": "margin_mse"}}, mix={kind: 1.0})).build(1)
    queries, passages = texts(batch.query_tokens), texts(batch.passage_tokens)
    np.testing.assert_array_equal(batch.teacher.passages_B, scores(zip(queries, passages, strict=True)))
    own = [queries[row] for row in batch.negative_row_N]
    expected = scores(zip(own, texts(batch.negative_tokens), strict=True))
    np.testing.assert_array_equal(batch.teacher.negatives_N, expected)


def test_a_reranker_is_asked_about_groups_with_negatives_alone(rerankers, encoders, tmp_path):
    assert [bool(p.teacher) for p in rerankers.partitions] == [p.negatives for p in rerankers.partitions]
    assert {p.negatives for p in rerankers.partitions} == {False, True}
    write_store(tmp_path / "none", [make_group(n) for n in range(20)], validation_fraction=0, test_fraction=0)
    with pytest.raises(InputError, match="hybrid-ir mine"):
        teach_scores(open_store(str(tmp_path / "none")), str(tmp_path / "new"), scores, pairs="all", made={})


def test_a_teacher_changes_nothing_of_a_batch(store, encoders):
    for step in range(4):
        plain = builder(store, settings(HARD)).build(step)
        taught = builder(encoders, settings(HARD, {"loss": {"teacher": "kl", "alignment": 1.0}})).build(step)
        assert (plain.kind, plain.pairs) == (taught.kind, taught.pairs)
        for name in ("query_tokens", "passage_tokens", "negative_tokens"):
            assert texts(getattr(plain, name)) == texts(getattr(taught, name))
        for name in ("passage_ids_BLS", "query_ids_BM", "negative_ids_N", "negative_row_N"):
            np.testing.assert_array_equal(getattr(plain, name), getattr(taught, name))
        assert plain.teacher is None
        assert plain.parallel_tokens is None


def test_rays_feed_brings_what_the_teacher_says(encoders):
    batch: Any = builder(encoders, settings({"loss": {"teacher": "kl", "alignment": 1.0}})).build(0)
    pickled, tokens = _pickled(batch)
    there = pa.array([tokens], pa.large_list(pa.large_binary()))[0]
    again: Any = _unpickled(pa.scalar(pickled, pa.large_binary()), there)
    np.testing.assert_array_equal(again.teacher.queries_BD, batch.teacher.queries_BD)
    assert texts(again.parallel_tokens) == texts(batch.parallel_tokens)


def test_parallel_questions_are_the_rows_own_in_another_language_of_training(encoders):
    asked = settings({"loss": {"alignment": 1.0}}, languages=["de", "es"], mix={"multilingual": 1.0})
    found = set()
    built = builder(encoders, asked)
    for step in range(20):
        batch: Any = built.build(step)
        if batch.parallel_tokens is None:
            continue
        questions = texts(batch.query_tokens)
        for row, text in zip(batch.parallel_row.tolist(), texts(batch.parallel_tokens), strict=True):
            assert text.split()[:3] == questions[row].split()[:3]  # "what is 7 in de?"
            found.add((questions[row].split()[-1], text.split()[-1]))
        german = [row for row, text in enumerate(questions) if int(text.split()[2]) >= 1000]
        assert not set(german) & set(batch.parallel_row.tolist())  # they have no other language
    assert found == {("de?", "es?"), ("es?", "de?")}


@pytest.mark.parametrize(
    ("which", "asked", "said"),
    [
        ("store", {"loss": {"teacher": "kl"}}, "run: hybrid-ir teach"),
        (
            "encoders",
            {"loss": {"teacher": "kl"}, "batch": {"positives": "same_text", "mix": {"monolingual": 1}}},
            "answer",
        ),
        ("store", {"loss": {"alignment": 1}, "batch": {"languages": ["de"], "alpha": 1}}, "two of the languages"),
        ("rerankers", {"loss": {"teacher": "mse"}}, "kl or margin_mse"),
        ("rerankers", {"loss": {"teacher": "kl"}}, "mine before you teach"),
        ("same", {"loss": {"teacher": "kl", "negatives": "triplet"}}, "--pairs all, or set batch.alpha=1"),
    ],
)
def test_what_a_store_does_not_have_is_refused_with_what_to_do(which, asked, said, request, store, tmp_path):
    if which == "same":
        teach_scores(store, str(tmp_path / "same"), scores, pairs="same", made={})
        there = open_store(str(tmp_path / "same"))
        plan_for(there, settings(asked, alpha=1))  # and what it has is served
    else:
        there = request.getfixturevalue(which)
    with pytest.raises(InputError, match=said):
        plan_for(there, settings(asked))


def test_a_study_runs_with_a_teacher(encoders, tmp_path):
    words = [f"store={encoders.path}", "loss.teacher=kl", "encoder.layers=4"]
    study = load_study("mixing_ratio", "real", tmp_path, words)
    assert (study.experiment.store, study.experiment.loss.teacher) == (encoders.path, "kl")
    assert len({point["batch.alpha"] for point in enumerate_points(study.space, study.experiment)}) == 7


def test_settings_that_contradict_each_other_are_refused(encoders):
    with pytest.raises(InputError, match="negatives=in_batch_and_hard or triplet"):
        settings({"loss": {"teacher": "margin_mse"}})
    with pytest.raises(InputError, match="vectors of 8 values to the teacher's, which have 6"):
        check_dimension(encoders, settings({"loss": {"teacher": "mse"}}), 8)
    check_dimension(encoders, settings({"loss": {"teacher": "mse"}}), 6)
    check_dimension(encoders, settings({"loss": {"teacher": "kl"}}), 8)


def test_a_teacher_that_fails_or_says_no_numbers_leaves_nothing(store, tmp_path):
    def interrupted(texts, *, role, languages):
        raise KeyboardInterrupt

    def overflowed(texts, *, role, languages):
        return np.full((len(texts), 2), np.inf, np.float32)

    with pytest.raises(KeyboardInterrupt):
        teach_vectors(store, str(tmp_path / "new"), interrupted, made={})
    with pytest.raises(InputError, match="NaN or infinity"):
        teach_vectors(store, str(tmp_path / "new"), overflowed, made={})
    with pytest.raises(InputError, match="shape"):
        teach_scores(store, str(tmp_path / "new"), lambda pairs: np.zeros(1), pairs="all", made={})
    with pytest.raises(InputError, match="--pairs"):
        teach_scores(store, str(tmp_path / "new"), scores, pairs="some", made={})
    assert list(tmp_path.iterdir()) == []
    teach_vectors(store, str(tmp_path / "new"), encode, made={})
    with pytest.raises(InputError, match="exists"):
        teach_vectors(store, str(tmp_path / "new"), encode, made={})
    empty = Store(store.path, {**store.manifest, "partitions": []})
    with pytest.raises(InputError, match="nothing to ask"):
        teach_vectors(empty, str(tmp_path / "other"), encode, made={})


def test_damage_is_said_and_not_learned(store, tmp_path):
    teach_vectors(store, str(tmp_path / "new"), encode, made={})
    path = tmp_path / "new/manifest.json"
    manifest = json.loads(path.read_text())
    missing = {**manifest, "partitions": [{**p, "teacher": []} for p in manifest["partitions"]]}
    path.write_text(json.dumps(missing))
    with pytest.raises(InputError, match="do not fit its groups"):
        plan_for(open_store(str(tmp_path / "new")), settings({"loss": {"teacher": "kl"}}))
    outside = {**manifest["partitions"][0], "teacher": [{"path": "../x", "rows": 1, "bytes": 1}]}
    path.write_text(json.dumps({**manifest, "partitions": [outside]}))
    with pytest.raises(InputError, match="outside of the store"):
        open_store(str(tmp_path / "new"))
    path.write_text(json.dumps(manifest))
    (name,) = [file["path"] for p in manifest["partitions"] if p["negatives"] for file in p["teacher"]]
    file = tmp_path / "new" / name
    whole = file.read_bytes()
    file.write_bytes(whole[:200] + bytes(b ^ 255 for b in whole[200:260]) + whole[260:])
    with pytest.raises(InputError, match=r"cannot be read .* prepare the store again"):
        builder(open_store(str(tmp_path / "new")), settings(HARD, {"loss": {"teacher": "kl"}})).build(0)
    file.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="is corrupt"):
        open_store(str(tmp_path / "new"))


def test_mining_a_taught_store_forgets_what_was_said_of_its_rows(encoders, tmp_path):
    mine_negatives(encoders, str(tmp_path / "mined"), encode, Rules(below=1, last=1000), made={})
    mined = open_store(str(tmp_path / "mined"))
    assert "taught" not in mined.manifest
    assert not any(partition.teacher for partition in mined.partitions)


def run(monkeypatch, capsys, *words) -> tuple[Any, str]:
    monkeypatch.setattr(sys, "argv", ["hybrid-ir", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    out, err = capsys.readouterr()
    return left.value.code, out + err


def test_the_command_writes_a_store_that_a_training_learns_from(tmp_path, monkeypatch, capsys):
    """The teacher's vectors are approached by mse alone, and its own tokenizer and weights are the student's too, but
    for the seed that they were drawn with."""
    make_store(tmp_path / "old", 120)
    old = open_store(str(tmp_path / "old"))
    for name, seed in (("teacher", 1), ("student", 0)):
        create_encoder("tiny", [*old.texts()], tmp_path / name, vocabulary=600, max_tokens=32, seed=seed)
    words = ("teach", "--encoder", tmp_path / "teacher", "--out", tmp_path / "new", f"store={tmp_path / 'old'}")
    code, said = run(monkeypatch, capsys, *words)
    assert code == 0, said
    assert "groups with vectors of 128 values by" in said
    code, said = run(monkeypatch, capsys, *words)
    assert (code, "exists" in said) == (2, True)
    code, said = run(monkeypatch, capsys, *words, "--reranker", "other")
    assert (code, "teach takes one teacher" in said) == (2, True)
    code, said = run(monkeypatch, capsys, *words, "--pairs", "same")
    assert (code, "--pairs same is of a reranker" in said) == (2, True)
    assert trained_on(tmp_path, "loss.teacher=mse", "loss.teacher_weight=1", "loss.alignment=0.1") < 0.7


def test_the_command_asks_a_reranker_too(tmp_path, monkeypatch, capsys):
    """A random one, which likes some languages more than others: that is learned all the same."""
    groups = [make_group(n, negatives=True) for n in range(80)]
    write_store(tmp_path / "old", groups, validation_fraction=0.1, test_fraction=0)
    texts = [*open_store(str(tmp_path / "old")).texts()]
    create_encoder("tiny", texts, tmp_path / "student", vocabulary=400, max_tokens=32, seed=0)
    make_cross_encoder(tmp_path / "teacher", "bert")
    words = ("teach", "--reranker", tmp_path / "teacher", "--out", tmp_path / "new", f"store={tmp_path / 'old'}")
    code, said = run(monkeypatch, capsys, *words, "--pairs", "same")
    assert code == 0, said
    assert "groups with scores of same pairs of languages by" in said
    learn = ("loss.teacher=margin_mse", "loss.teacher_weight=1", "loss.teacher_temperature=0.1")
    assert trained_on(tmp_path, *learn, "loss.negatives=triplet", "batch.mix={multilingual: 1}") < 0.9


def trained_on(folder: Path, *overrides: str) -> float:
    """The loss of the last step of a short training of folder/student on folder/new, as a share of the first's."""
    asked = experiment(folder / "new", folder / "run", *overrides, "train.steps=12", "train.evaluate_every=12")
    losses = Plain(asked, folder / "student").losses
    return losses[-1] / losses[0]


@pytest.mark.slow
@pytest.mark.long
def test_ray_trains_on_a_teacher_alone_and_workers_change_neither_batches_nor_weights(tmp_path, ray_cluster):
    """One worker reads batches in its own process, two get theirs from Ray Data. Quick: the ranks of test_step.py, and
    Ray's feed above."""
    from hybrid_ir.training.run import train

    make_store(tmp_path / "old", 120)
    old = open_store(str(tmp_path / "old"))
    teach_vectors(old, str(tmp_path / "new"), encode, made={"name": "hash"})
    create_encoder("tiny", [*old.texts()], tmp_path / "student", vocabulary=600, max_tokens=32, seed=0)
    words = ("loss.teacher=kl", "loss.teacher_weight=1", "train.steps=12", "train.evaluate_every=12")

    def asked(out: str, *more: str):
        name = f"encoder.name={tmp_path / 'student'}"
        return experiment(tmp_path / "new", tmp_path / out, name, *words, *more)

    made = [
        train(asked("one", "train.workers=1"), ray_cluster),
        train(asked("two", "train.workers=2", "train.feed=ray_data"), ray_cluster),
    ]
    assert made[0]["batches_hash"] == made[1]["batches_hash"]
    plain = Plain(asked("none"), tmp_path / "student")
    for metrics, out in zip(made, ("one", "two"), strict=True):
        assert metrics["loss"] == pytest.approx(plain.losses[-1], rel=2e-3)
        for name, value in load_file(tmp_path / out / "checkpoint" / "model.safetensors").items():
            np.testing.assert_allclose(value, plain.weights[12][name], atol=1e-4, err_msg=name)
