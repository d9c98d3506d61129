"""Encoders beside one another on one test: names, reuse, paired tests and the page; and BM25 against pencil work."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
from checkpoints import make_preset
from typer.testing import CliRunner

from hybrid_ir.cli.app import app
from hybrid_ir.config import load_experiment
from hybrid_ir.evaluation import evaluator
from hybrid_ir.evaluation.comparisons import encoder_comparison
from hybrid_ir.evaluation.comparisons.encoder_comparison import compare_encoders, name_encoders
from hybrid_ir.evaluation.evaluator import BM25, evaluate_bm25
from hybrid_ir.evaluation.lexical import K1, B, bm25_scores
from hybrid_ir.types import Candidate, Collection, InputError, Query
from hybrid_ir.words import words_of

pytest.importorskip("bm25s", reason="the extra bm25 is not installed")

FACTS = {
    "en": [("Where is Paris?", "Paris is in France."), ("Where is Berlin?", "Berlin is in Germany.")],
    "es": [("¿Dónde está París?", "París está en Francia."), ("¿Dónde está Berlín?", "Berlín está en Alemania.")],
    "th": [("ปารีสอยู่ที่ไหน", "ปารีสอยู่ในฝรั่งเศส"), ("เบอร์ลินอยู่ที่ไหน", "เบอร์ลินอยู่ในเยอรมนี")],
}
TEST = Collection(
    "capitals",
    [Query(f"{lang}-{i}", f"g{i}", lang, q) for lang, facts in FACTS.items() for i, (q, _) in enumerate(facts)],
    [
        Candidate(f"{lang}-{i}", (f"g{i}",), lang, p, "d")
        for lang, facts in FACTS.items()
        for i, (_, p) in enumerate(facts)
    ],
)
EXPERIMENT = load_experiment(None, ["evaluate.bootstrap_rounds=50", "evaluate.precision=fp32"])


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """A run folder, a folder of the same weights, and another encoder."""
    root = tmp_path_factory.mktemp("encoders")
    (root / "mine").mkdir()
    make_preset(root / "mine" / "checkpoint")
    make_preset(root / "same")
    make_preset(root / "other", seed=7)
    return root


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Tokyo 2020は東京で", ["tokyo", "2020", "は東", "東京", "京で"]),
        ("नई दिल्ली", ["नई", "दिल्ली"]),  # the vowel signs are marks, and part of the word
        ("ÉCOLE, Straße!", ["école", "strasse"]),
        ("中", ["中"]),
        ("ＩＲ", ["ir"]),  # full width
        ("ไทย", ["ไท", "ทย"]),
        ("... —", []),
    ],
)
def test_words_are_unicodes_and_bigrams_where_there_are_no_spaces(text, words):
    assert words_of(text) == words


def test_bm25_is_the_formula_worked_by_hand():
    # Three passages of 2, 1 and 3 words, 2 on average; "a" is in two of them, "b" in one. In Lucene's form:
    # idf(a) = ln(1 + (3 - 2 + .5) / (2 + .5)), idf(b) = ln(1 + (3 - 1 + .5) / (1 + .5)),
    # and a word that stands once in a passage of n words weighs idf / (1 + k1 (1 - b + b n / 2)).
    idf_a, idf_b = math.log(1 + 1.5 / 2.5), math.log(1 + 2.5 / 1.5)
    score = bm25_scores(["a b", "nothing", "B"], ["a b", "a", "x y z"])
    expected = [
        [(idf_a + idf_b) / (1 + K1), idf_a / (1 + K1 * (1 - B + B / 2)), 0],
        [0, 0, 0],
        [idf_b / (1 + K1), 0, 0],
    ]
    assert score(np.array([0, 1, 2])) == pytest.approx(np.array(expected), rel=1e-6)
    assert score(np.array([2])) == pytest.approx(np.array(expected[2:]), rel=1e-6)  # rows are the queries asked for


def test_bm25_of_passages_without_a_word_is_refused():
    with pytest.raises(InputError, match="none of 2 candidates has a word"):
        bm25_scores(["a"], ["...", "?"])


def test_bm25_answers_in_one_language_and_ties_where_no_word_is_common(tmp_path):
    summary = evaluate_bm25(TEST, tmp_path, EXPERIMENT)
    # Every question shares its city's name with the passage of its language, and with no other passage there.
    assert summary["AP_mono"] == 1.0
    # Thai shares no word with English: two passages tie, and the right one is first or second, (1 + 1/2) / 2.
    assert summary["matrix"]["th"]["en"] == summary["matrix"]["en"]["th"] == pytest.approx(0.75)
    assert json.loads((tmp_path / "metrics.json").read_text()) == summary


def test_a_label_is_the_last_part_that_tells_names_apart(tmp_path):
    for run in ("a/mine", "b/mine"):
        (tmp_path / run / "checkpoint").mkdir(parents=True)
    a, b = tmp_path / "a" / "mine", tmp_path / "b" / "mine"
    assert name_encoders([str(a), "intfloat/e5"], bm25=True) == {
        "mine": f"{a}/checkpoint",
        "e5": "intfloat/e5",
        BM25: BM25,
    }
    assert list(name_encoders([str(a), str(b / "checkpoint")])) == ["a-mine", "b-mine"]
    assert list(name_encoders(["s3://bucket/runs/x/checkpoint"])) == ["x"]
    for same in ([str(a), str(a)], [str(a), f"{a}/checkpoint"], []):
        with pytest.raises(InputError, match="named once each"):
            name_encoders(same)


def test_equal_weights_show_no_difference_and_each_is_measured_once(encoders, tmp_path, monkeypatch):
    named = name_encoders([str(encoders / "mine"), str(encoders / "same"), str(encoders / "other")], bm25=True)
    said = []
    summaries, comparisons = compare_encoders(named, TEST, tmp_path, EXPERIMENT, said.append)
    assert list(summaries) == ["mine", "same", "other", BM25]
    assert summaries["mine"]["matrix"] == summaries["same"]["matrix"]
    assert {c.p for c in comparisons if c.first == "same"} == {1.0}
    assert {c.second for c in comparisons} == {"mine"}
    # Six measures of three encoders. The least p of two questions is 1/2, so that Holm's correction makes all 1.
    assert [c.p for c in comparisons] == [1.0] * 18

    written = json.loads((tmp_path / "comparison.json").read_text())
    assert written["encoders"]["mine"]["cost"] == summaries["mine"]["cost"]
    assert written["encoders"]["mine"]["cost"]["dimension"] == 128
    assert written["encoders"][BM25]["cost"]["parameters"] is None
    assert written["comparisons"][0]["questions"] == 2
    page = (tmp_path / "comparison.html").read_text()
    assert "Against mine" in page
    assert "Cost" in page
    assert all(label in page for label in named)

    # Again: nothing is measured. With another seed for the intervals, everything is.
    def refuse(*_, **__):
        raise AssertionError("measured again")

    with monkeypatch.context() as patch:
        patch.setattr(encoder_comparison, "evaluate", refuse)
        patch.setattr(encoder_comparison, "evaluate_bm25", refuse)
        said.clear()
        again, _ = compare_encoders(named, TEST, tmp_path, EXPERIMENT, said.append)
        assert again == summaries
        assert all("measured before" in line for line in said)
        with pytest.raises(AssertionError):
            compare_encoders(named, TEST, tmp_path, EXPERIMENT.model_copy(update={"seed": 1}))
        # Another weight, or another passage, is another encoder or test.
        with pytest.raises(AssertionError):
            compare_encoders({"mine": str(encoders / "other")}, TEST, tmp_path, EXPERIMENT)
        other = Collection(TEST.name, TEST.queries, [*TEST.candidates[:-1], TEST.candidates[-1]._replace(text="x")])
        with pytest.raises(AssertionError):
            compare_encoders(named, other, tmp_path, EXPERIMENT)


def test_an_evaluation_that_breaks_leaves_no_measures_of_the_one_before(encoders, tmp_path, monkeypatch):
    compare_encoders({"mine": str(encoders / "same")}, TEST, tmp_path, EXPERIMENT)

    def full(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(evaluator.pq, "write_table", full)
    with pytest.raises(OSError, match="disk full"):
        compare_encoders({"mine": str(encoders / "other")}, TEST, tmp_path, EXPERIMENT)
    assert not (tmp_path / "mine" / "metrics.json").exists()


def test_one_language_is_compared_without_pairs(tmp_path):
    one = Collection(
        "one", [q for q in TEST.queries if q.language == "en"], [c for c in TEST.candidates if c.language == "en"]
    )
    summaries, comparisons = compare_encoders({BM25: BM25, "again": BM25}, one, tmp_path, EXPERIMENT)
    assert summaries[BM25]["AP_cross"] is None
    assert {c.measure for c in comparisons} == {"AP_mono", "AP_multi"}  # no pairs, no distance, no translations


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "compare needs --mixes"),
        (["--mixes", "hybrid", "--encoders", "a"], "compare needs --mixes"),
        (["--encoders", "a"], "--encoders needs --path"),
        (["--mixes", "hybrid", "--path", "x", "--split", "test"], "--path, --split goes with --encoders"),
        (["--mixes", "hybrid", "--no-bm25"], "--bm25 goes with --encoders"),
        (["--encoders", "a,a", "--path", "x", "--out", "o"], "encoders must be named once each, got a, a"),
        (["--encoders", "a", "--path", "x", "--out", "s3://b/o"], "needs a folder, not s3://b/o"),
        (["--encoders", "a", "--collection", "tatoeba", "--path", "/nowhere", "--out", "o"], "/nowhere"),
    ],
)
def test_what_the_command_cannot_do_is_one_sentence(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["compare", *words])
    assert isinstance(result.exception, InputError)
    assert said in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)
    monkeypatch.setattr("hybrid_ir.evaluation.lexical.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'hybrid-ir\[bm25\]'"):
        bm25_scores(["a"], ["a"])
