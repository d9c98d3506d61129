"""Mined negatives against pencil work: the last word of every text is an angle, and a text's vector points there.

A score is the cosine of the difference of two angles: 1 at 0 degrees, .985 at 10, .940 at 20, .866 at 30, .766 at 40,
.643 at 50, .5 at 60.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import write_store

from hybrid_ir.batches.from_experiment import plan_for
from hybrid_ir.cli import app as cli
from hybrid_ir.config.loading import load_experiment
from hybrid_ir.data.store import open_store
from hybrid_ir.encoders.presets import create_encoder
from hybrid_ir.mining.job import mine_negatives
from hybrid_ir.mining.nearest import nearest
from hybrid_ir.mining.pool import read_pool
from hybrid_ir.mining.rules import Rules, parse_ranks
from hybrid_ir.types import Group, InputError, Passage


def encode(texts, *, role, languages=None):
    angles = np.radians([float(text.split()[-1]) for text in texts])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def group(name, ids=None, questions=None, negatives=None, **angles) -> Group:
    """Group NAME with (angle of the question, angle of the answer) by language; texts and ids are its own."""
    return Group(
        name,
        name,
        {x: f"{(questions or {}).get(x, name)} asks {q}" for x, (q, _) in angles.items()},
        {x: (Passage((ids or {}).get(x, f"{name}-{x}"), f"{name} {x} {p}"),) for x, (_, p) in angles.items()},
        {x: (Passage(f"old-{x}", f"old {x} 0"),) for x in angles} if negatives else {},
    )


def mined(tmp_path, groups, rules=None, **more) -> dict[str, dict[str, str | list[str]]]:
    """`negatives_of` the new store."""
    write_store(tmp_path / "old", groups, validation_fraction=0, test_fraction=0)
    mine_negatives(open_store(str(tmp_path / "old")), str(tmp_path / "new"), encode, rules or Rules(), made={}, **more)
    return negatives_of(tmp_path / "new")


def negatives_of(path, named=True) -> dict[str, dict[str, str | list[str]]]:
    """{group: {language: doc_id of its negative, or of them where there are several}}. `named`: texts name theirs."""
    store, found = open_store(str(path)), {}
    for number, partition in enumerate(store.partitions):
        rows = np.arange(partition.rows)
        for language in partition.languages if partition.negatives else ():
            texts = store.take(number, rows, f"n_{language}")
            assert not named or all(
                f" {language} " in text for several in texts for text in several
            )  # in the language that it stands under
            ids = store.take(number, rows, f"n_id_{language}")
            for name, several in zip(store.take(number, rows, "group_id"), ids, strict=True):
                found.setdefault(name.removeprefix("tiny:"), {})[language] = (
                    several[0] if len(several) == 1 else several
                )
    return found


def counts_of(path) -> dict:
    return json.loads((path / "manifest.json").read_text())["mined"]["outcomes"]


ASKED = group("a", en=(0, 10))
OTHERS = [group("b", en=(180, 20)), group("c", en=(180, 40)), group("d", en=(180, 60))]


def test_the_highest_that_scores_less_than_95_percent_of_the_answer(tmp_path):
    # The answer scores .985, of which 95 % are .936: 20 degrees (.940) is too near, 40 (.766) is not.
    assert mined(tmp_path, [ASKED, *OTHERS])["a"] == {"en": "c-en"}


def test_a_bound_of_all_takes_what_scores_just_less_than_the_answer(tmp_path):
    assert mined(tmp_path, [ASKED, *OTHERS], Rules(below=1))["a"] == {"en": "b-en"}


def test_a_margin_keeps_a_distance_in_cosine(tmp_path):
    # .985 - .3 = .685: 40 degrees (.766) is above it, 60 (.5) is not.
    assert mined(tmp_path, [ASKED, *OTHERS], Rules(margin=0.3))["a"] == {"en": "d-en"}


def test_ranks_skip_the_first_and_end_at_the_last(tmp_path):
    assert mined(tmp_path, [ASKED, *OTHERS], Rules(below=1, first=2))["a"] == {"en": "c-en"}
    with pytest.raises(InputError, match="all too near the answer by --below: 2"):
        mined(tmp_path / "last", [ASKED, *OTHERS[:1]], Rules(last=1, first=1))


def test_several_negatives_are_the_best_that_the_rules_allow_or_fewer(tmp_path):
    # b at 20 degrees is too near for --below .95. There is no third passage.
    assert mined(tmp_path, [ASKED, *OTHERS], Rules(negatives=2))["a"] == {"en": ["c-en", "d-en"]}
    assert mined(tmp_path / "more", [ASKED, *OTHERS], Rules(negatives=3))["a"] == {"en": ["c-en", "d-en"]}
    assert mined(tmp_path / "all", [ASKED, *OTHERS], Rules(below=1, negatives=3))["a"] == {
        "en": ["b-en", "c-en", "d-en"]
    }
    assert open_store(str(tmp_path / "new")).partitions[0].most_negatives == 2


def test_of_several_answers_none_is_a_negative_and_each_keeps_its_distance(tmp_path):
    """The answer at 30 degrees scores .866, of which 95 % are .823: 25 degrees (.906) is too near it, 40 (.766) is not.
    That answer is a passage as others are: of group f, which asks from 33 degrees, it is the nearest wrong one. With
    --below 1, f's answer (.839) scores less than both answers of a."""
    both = (*ASKED.passages["en"], Passage("second", "a en 30"))
    several = Group("a", "a", ASKED.queries, {"en": both})
    groups = [several, *OTHERS, group("e", en=(180, 25)), group("f", en=(33, 33))]
    assert mined(tmp_path, groups)["a"] == {"en": "c-en"}
    found = mined(tmp_path / "near", groups, Rules(below=1))
    assert (found["a"], found["f"]) == ({"en": "f-en"}, {"en": "second"})


def test_an_answer_below_zero_has_its_bound_below_itself(tmp_path):
    # The answer scores cos(120) = -.5, so the bound is -.525. A passage at 121 degrees (-.515) is too near.
    near, far = group("b", en=(0, 121)), group("c", en=(0, 150))
    assert mined(tmp_path, [group("a", en=(0, 120)), near, far])["a"] == {"en": "c-en"}


TWO = [
    group("a", en=(0, 0), de=(90, 40)),
    group("b", en=(0, 30), de=(0, 0)),
    group("c", en=(0, 80), de=(0, 80)),
    group("x", en=(180, 200), de=(180, 200)),
    group("y", en=(180, 210), de=(180, 210)),
]


@pytest.mark.parametrize(
    ("languages", "negatives"),
    [
        # English asks from 0 degrees: b at 30 scores .866, and the answer 1. German asks from 90, its answer at 40
        # scores .643: c at 80 (.985) is too near, b at 0 scores 0.
        ("same", {"en": "b-en", "de": "b-de"}),
        # German asks English: the answer at 0 scores 0, b and c score more, x cos(110) and y cos(120). English asks
        # German: the answer at 40 scores .766, b at 0 scores 1, and c at 80 .174.
        ("other", {"en": "x-en", "de": "c-de"}),
        # What one of the two takes for an answer is no negative of the other.
        ("any", {"en": "x-en", "de": "x-de"}),
    ],
)
def test_the_questions_that_rank_are_those_of_the_plan(tmp_path, languages, negatives):
    assert mined(tmp_path, TWO, Rules(languages))["a"] == negatives


def test_a_group_in_one_language_has_no_other_question(tmp_path):
    english = [group(f"e{n}", en=(n, n)) for n in range(300)]  # more than prepare folds into other partitions
    found = mined(tmp_path, [*english, *TWO], Rules("other"))
    assert not any(name.startswith("e") for name in found)
    assert counts_of(tmp_path / "new")["en"]["not asked"] == 300


def test_an_answer_in_any_language_is_no_negative_in_another(tmp_path):
    """b's English passage is a's; so its German one, which scores best for a's German question, answers it too."""
    groups = [
        group("a", {"en": "same"}, en=(0, 0), de=(50, 0)),
        group("b", {"en": "same"}, en=(180, 0), de=(180, 49)),
        group("c", en=(180, 90), de=(180, 120)),
    ]
    # a's German answer scores cos(50) = .643; b's would score cos(1), c's cos(70) = .342.
    assert mined(tmp_path, groups)["a"] == {"en": "c-en", "de": "c-de"}


def test_the_answers_of_who_asks_the_same_are_no_negatives_in_any_language(tmp_path):
    """b asks a's question in English, with another answer: its German answer is none of the wrong ones for a."""
    groups = [
        group("a", en=(0, 0), de=(0, 0)),
        group("b", questions={"en": "a"}, en=(0, 40), de=(180, 40)),
        group("c", en=(180, 60), de=(180, 60)),
    ]
    assert mined(tmp_path, groups)["a"] == {"en": "c-en", "de": "c-de"}


def test_a_text_that_stands_twice_is_one_passage_whatever_its_ids(tmp_path):
    twice = Group("t", "t", {"en": "t asks 180"}, {"en": (Passage("other-id", ASKED.passages["en"][0].text),)})
    write_store(tmp_path / "old", [ASKED, twice, *OTHERS], validation_fraction=0, test_fraction=0)
    pool = read_pool(open_store(str(tmp_path / "old"))).languages["en"]
    assert len(pool.group_Q) == 5
    assert len(pool.first_P) == 4
    # And the answer of either is none of the other's negatives, also where its own score allows that.
    assert mined(tmp_path / "mined", [ASKED, twice, *OTHERS[1:]], Rules(below=1))["a"] == {"en": "c-en"}


def test_who_has_a_negative_keeps_it_unless_told_to_replace_it(tmp_path):
    had = [group(f"h{n}", negatives=True, en=(n, n)) for n in range(300)]
    new = [group(f"n{n}", en=(n, n)) for n in range(300)]
    found = mined(tmp_path, had + new)
    assert all(found[f"h{n}"] == {"en": "old-en"} for n in range(300))
    assert all(found[f"n{n}"]["en"][0] in "hn" for n in range(300))
    assert counts_of(tmp_path / "new")["en"] | {"mined": 300, "kept": 300} == counts_of(tmp_path / "new")["en"]
    replaced = mined(tmp_path / "replaced", had + new, replace=True)
    assert len(replaced) == 600
    assert "old-en" not in {each["en"] for each in replaced.values()}
    with pytest.raises(InputError, match="--replace"):
        mined(tmp_path / "none", had)


@pytest.mark.parametrize("languages", ["same", "any"])
def test_blocks_of_any_size_find_what_all_scores_sorted_give(tmp_path, languages):
    """120 groups in two languages, each within 20 degrees of a direction of its own. What is compared with has no
    blocks, no best so far, and whole rows of scores."""
    random = np.random.default_rng(0)
    angles = random.uniform(0, 360, (120, 1)) + random.uniform(-20, 20, (120, 4))
    groups = [group(f"g{n}", en=(a, b), de=(c, d)) for n, (a, b, c, d) in enumerate(angles.tolist())]
    write_store(tmp_path / "old", groups, validation_fraction=0, test_fraction=0)
    rules = Rules(languages, below=0.9, margin=0.02, last=60)
    for block, chunk in ((512, 16384), (7, 11), (40, 119), (1, 400)):
        place = str(tmp_path / f"{block}")
        mine_negatives(
            open_store(str(tmp_path / "old")), place, encode, rules, made={}, block=block, chunk=chunk
        )  # fmt: skip
    first, *others = (negatives_of(tmp_path / f"{block}") for block in (512, 7, 40, 1))
    assert all(other == first for other in others)

    def scores(n, language):
        """Of the questions that rank for group n, with all passages of a language."""
        asked = angles[n, [0, 2] if languages == "any" else [{"en": 0, "de": 2}[language]]]
        return np.cos(np.radians(asked[:, None] - angles[None, :, {"en": 1, "de": 3}[language]]))

    without = 0
    for n in range(120):
        best = {}
        for language in ("en", "de"):
            answer, others = scores(n, language)[:, n : n + 1], np.delete(scores(n, language), n, axis=1)
            rank = 1 + np.argsort(np.argsort(-others, axis=1), axis=1)
            near = ((others >= 0.9 * answer) | (others > answer - 0.02)).any(axis=0)
            best[language] = np.max(others.max(axis=0), where=(rank.min(axis=0) <= 60) & ~near, initial=-2)
        if min(best.values()) == -2:
            assert f"g{n}" not in first
            without += 1
            continue
        for language, score in best.items():
            taken = int(first[f"g{n}"][language].split("-")[0][1:])
            assert scores(n, language)[:, taken].max() == pytest.approx(score, abs=1e-5)
    assert without < 40


def test_of_equal_scores_the_lower_number_comes_first_and_what_is_missing_is_minus_one():
    from scipy.sparse import csr_array

    passages = np.array([[0, 1], [1, 0], [-1, 0], [1, 0], [0, -1]], np.float32)
    left_out = csr_array(np.array([[0, 0, 0, 1, 0], [0, 0, 0, 0, 0]], bool))
    questions = np.array([[1, 0], [1, 0]], np.float32)
    for chunk in (1, 2, 5):
        # 0 and -0 are equal: passages 0 and 4 stand in the order of their numbers.
        found = nearest(questions, passages, left_out, 6, chunk=chunk)
        assert found.tolist() == [[1, 0, 4, 2, -1, -1], [1, 3, 0, 4, 2, -1]]


def test_what_is_held_out_and_how_groups_are_ordered_stay(tmp_path, tiny_store):
    """Texts end in a number that is no angle, so that all vectors come from a generator."""

    def scattered(texts, *, role, languages):
        vectors = np.random.default_rng(len(texts)).normal(size=(len(texts), 8))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    before = Path(tiny_store.path, "manifest.json").read_bytes()
    mine_negatives(tiny_store, str(tmp_path / "new"), scattered, Rules(), made={"encoder": "none"})
    new = open_store(str(tmp_path / "new"))
    for split in ("validation", "test"):
        assert new.collection(split).queries == tiny_store.collection(split).queries
        assert new.collection(split).candidates == tiny_store.collection(split).candidates
    assert (tmp_path / "new/splits.parquet").read_bytes() == Path(tiny_store.path, "splits.parquet").read_bytes()
    rows = [np.arange(partition.rows) for partition in new.partitions]
    old = tiny_store.take(0, np.arange(tiny_store.partitions[0].rows), "group_id")
    ids = [new.take(number, each, "group_id") for number, each in enumerate(rows)]
    assert sorted(name for each in ids for name in each) == sorted(old)
    assert all(each == [name for name in old if name in set(each)] for each in ids)
    assert new.content_hash != tiny_store.content_hash
    assert new.manifest["mined"]["from"] == tiny_store.content_hash
    assert Path(tiny_store.path, "manifest.json").read_bytes() == before


def test_an_interrupted_or_failed_mining_leaves_nothing(tmp_path, tiny_store):
    def interrupted(texts, *, role, languages):
        raise KeyboardInterrupt

    def overflowed(texts, *, role, languages):
        return np.full((len(texts), 2), np.nan, np.float32)

    with pytest.raises(KeyboardInterrupt):
        mine_negatives(tiny_store, str(tmp_path / "new"), interrupted, Rules(), made={})
    with pytest.raises(InputError, match="NaN"):
        mine_negatives(tiny_store, str(tmp_path / "new"), overflowed, Rules(), made={})
    assert list(tmp_path.iterdir()) == []


def test_bad_rules_are_refused():
    for rules in (
        {"languages": "all"},
        {"below": 0},
        {"below": 1.1},
        {"margin": -1},
        {"first": 0},
        {"first": 9, "last": 8},
        {"negatives": 0},
        {"first": 9, "last": 10, "negatives": 3},
    ):
        with pytest.raises(InputError, match="--"):
            Rules(**rules)
    assert parse_ranks(" 10-100") == (10, 100)
    for words in ("100", "a-b", "-5", "1-2-3", ""):
        with pytest.raises(InputError, match="--ranks"):
            parse_ranks(words)


def test_a_store_without_groups_is_refused(tmp_path, tiny_store):
    empty = type(tiny_store)(tiny_store.path, {**tiny_store.manifest, "partitions": []})
    with pytest.raises(InputError, match="no groups to train on"):
        mine_negatives(empty, str(tmp_path / "new"), encode, Rules(), made={})


def run(monkeypatch, capsys, *words) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["hybrid-ir", "mine", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    out, err = capsys.readouterr()
    return left.value.code, out + err


def test_the_command_writes_a_store_that_triplets_train_on(tmp_path, tiny_store, monkeypatch, capsys):
    run_folder = tmp_path / "run"
    create_encoder("tiny", [*tiny_store.texts()], run_folder / "checkpoint", vocabulary=400, max_tokens=32, seed=0)
    words = ("--checkpoint", run_folder, "--out", tmp_path / "new", "--below", "1", "--ranks", "1-1000")
    with pytest.raises(InputError, match="needs groups with hard negatives"):
        plan_for(tiny_store, load_experiment(None, ["batch.size=4", "loss.negatives=triplet"]))
    code, said = run(monkeypatch, capsys, *words, f"store={tiny_store.path}")
    assert code == 0, said
    assert "groups have mined negatives" in said
    assert "a negative was found" in said
    new = open_store(str(tmp_path / "new"))
    assert new.manifest["mined"]["encoder"] == str(run_folder)
    plan = plan_for(new, load_experiment(None, ["batch.size=4", "loss.negatives=triplet"]))
    assert plan.languages == ("de", "en", "es")
    code, said = run(monkeypatch, capsys, *words, f"store={tiny_store.path}")
    assert code == 2
    assert "exists" in said


def test_the_command_refuses_what_is_not_there(tmp_path, tiny_store, monkeypatch, capsys):
    words = ("--checkpoint", "none/such", "--out", tmp_path / "new")
    code, said = run(monkeypatch, capsys, *words, f"store={tmp_path / 'no'}")
    assert (code, "no store at" in said) == (2, True)
    code, said = run(monkeypatch, capsys, *words, f"store={tiny_store.path}")
    assert (code, "is not a model" in said) == (2, True)
    code, said = run(monkeypatch, capsys, *words, f"store={tiny_store.path}", "--ranks", "5")
    assert (code, "--ranks must be" in said) == (2, True)
    assert list(tmp_path.iterdir()) == []
