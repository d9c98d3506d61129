"""Belebele, and what mteb publishes of MLDR, NeuCLIR, MKQA and XPQA: on files made here in their layouts, small enough
that every measure is worked out by pencil. How each layout was looked up stands in its reader.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checkpoints import make_preset
from task_files import json_lines, rows_of, write

from hybrid_ir.cli import app as cli
from hybrid_ir.evaluation.evaluator import count_texts, load_test
from hybrid_ir.evaluation.tasks.mteb_result import MtebTask, mteb_result
from hybrid_ir.evaluation.tasks.result import summarize
from hybrid_ir.evaluation.test_sets.mteb_layout import load_mteb_set
from hybrid_ir.languages import FAMILY, language_and_script
from hybrid_ir.types import InputError

# Scores of x: a 1, b .8, c .6, d 0.   Scores of y: a 0, b .6, c .8, d 1.
VECTORS = {"x": [1, 0], "y": [0, 1], "a": [1, 0], "b": [0.8, 0.6], "c": [0.6, 0.8], "d": [0, 1]}
SECOND = 1 / np.log2(3)
"""nDCG of the one that is relevant at the second position."""


def looked_up(texts, languages):
    return np.array([VECTORS[text.removeprefix("T ").rpartition(" ")[2]] for text in texts], np.float32)


def measured(test, folder):
    return test.measure(looked_up, looked_up, folder / "runs")


# What mteb publishes


def write_rows(path: Path, columns: dict[str, list]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def write_subset(root: Path, name: str, *, queries, corpus, qrels, split: str = "test") -> None:
    """The columns that the file lists of mteb/XPQARetrieval and mteb/MultiLongDocRetrieval have on the hub."""
    file = f"{split}-00000-of-00001.parquet"
    ids = [f"d{i}" for i in range(len(corpus))]
    write_rows(root / f"{name}-corpus" / file, {"id": ids, "text": corpus, "title": [""] * len(corpus)})
    write_rows(root / f"{name}-queries" / file, {"id": [f"q{i}" for i in range(len(queries))], "text": queries})
    columns = zip(*qrels, strict=True)
    write_rows(root / f"{name}-qrels" / file, dict(zip(("query-id", "corpus-id", "score"), columns, strict=True)))


@pytest.fixture
def xpqa(tmp_path):
    """Ids are those of a subset alone, as upstream's are: d0 is another text in each."""
    root = tmp_path / "mteb" / "XPQARetrieval"
    write_subset(root, "deu-deu", queries=["x", "y"], corpus=["a", "b"], qrels=[("q0", "d1", 1), ("q1", "d1", 1)])
    write_subset(root, "eng-deu", queries=["x"], corpus=["d", "a"], qrels=[("q0", "d0", 1)])
    write_subset(root, "cmn-eng", queries=["y"], corpus=["d"], qrels=[("q0", "d0", 1)])
    return root


def test_each_subset_is_ranked_in_its_own_pool_and_the_mean_is_over_subsets(xpqa, tmp_path):
    test = load_test("xpqa", str(xpqa))
    result = measured(test, tmp_path)
    assert {q: (row["language"], row["nDCG@10"]) for q, row in rows_of(result).items()} == {
        "cmn-eng/q0": ("cmn-eng", 1.0),
        "deu-deu/q0": ("deu-deu", pytest.approx(SECOND)),
        "deu-deu/q1": ("deu-deu", 1.0),
        "eng-deu/q0": ("eng-deu", pytest.approx(SECOND)),
    }
    assert count_texts(test) == 4 + 5
    summary = summarize(result, resamples=0)
    assert summary["measures"]["nDCG@10"] == pytest.approx((1 + (1 + SECOND) / 2 + SECOND) / 3)
    assert summary["counts"]["per_language"]["deu-deu"]["passages"] == 2
    assert summary["counts"]["left_out"] == dict.fromkeys(summary["counts"]["left_out"], 0)
    assert (tmp_path / "runs" / "eng-deu.trec").read_text().splitlines()[0] == "q0 Q0 d1 1 1 hybrid-ir"


def test_languages_keeps_the_subsets_that_have_no_other(xpqa):
    assert list(load_mteb_set(str(xpqa), languages=["de"])) == ["deu-deu"]
    both = load_mteb_set(str(xpqa), languages=["en", "ger"])
    assert list(both) == ["deu-deu", "eng-deu"]
    # Passages first: German questions of English passages.
    assert {query.language for query in both["eng-deu"].queries.values()} == {"de"}
    assert both["eng-deu"].n_passages == {"en": 2}
    with pytest.raises(InputError, match=r"no subset with en and no .* its subsets are: cmn-eng deu-deu eng-deu"):
        load_mteb_set(str(xpqa), languages=["en"])


def test_neuclir_is_graded_and_its_first_measure_is_at_20(tmp_path):
    qrels = [("q0", "d0", 1), ("q0", "d1", 3), ("q0", "d2", 0)]
    write_subset(tmp_path / "zh", "zho", queries=["x"], corpus=["b", "c", "a"], qrels=qrels)
    summary = summarize(measured(load_test("neuclir", str(tmp_path / "zh")), tmp_path), resamples=0)
    assert list(summary["measures"]) == ["nDCG@20", "nDCG@10", "RR@10", "R@100", "AP"]
    # The order is d2 (0), d0 (1), d1 (3).
    assert summary["measures"]["nDCG@20"] == pytest.approx((SECOND + 3 / 2) / (3 + SECOND))
    assert list(summary["per_language"]) == ["zho"]


def test_mkqa_is_measured_on_train_and_mldr_s_titles_and_splits_are_read(tmp_path):
    for name in ("zh_cn", "zh_tw", "no"):  # the two forms of Chinese are subsets of their own
        write_subset(tmp_path / "mkqa", name, queries=["x"], corpus=["a"], qrels=[("q0", "d0", 1)], split="train")
    result = measured(load_test("mkqa", str(tmp_path / "mkqa"), languages=["zh"]), tmp_path)
    assert list(rows_of(result)) == ["zh_cn/q0", "zh_tw/q0"]
    write_subset(tmp_path / "mldr", "de", queries=["x"], corpus=["a"], qrels=[("q0", "d0", 1)])
    write_rows(tmp_path / "mldr/de-corpus/test-00000-of-00001.parquet", {"_id": [7], "text": ["a"], "title": ["T"]})
    qrels = {"query-id": ["q0"], "corpus-id": ["7"], "score": [1]}
    write_rows(tmp_path / "mldr/de-qrels/test-00000-of-00001.parquet", qrels)
    assert [p.text for p in load_mteb_set(str(tmp_path / "mldr"))["de"].read_passages()] == ["T a"]
    with pytest.raises(InputError, match=r"no file \*-qrels/dev-\*.parquet in .*; found de-corpus/test-0"):
        load_test("mldr", str(tmp_path / "mldr"), split="dev")


@pytest.mark.parametrize(
    ("part", "columns", "message"),
    [
        ("corpus", {"id": ["d0"], "txt": ["a"]}, r"deu-deu-corpus/test.*:1 needs id or _id, and text: found id, txt"),
        ("corpus", {"id": ["d1", "d1"], "text": ["a", "b"]}, r"corpus/test.*:2 repeats passage 'd1'; keep one"),
        ("queries", {"id": ["q0", "q1"], "text": ["x", " "]}, r"queries/test.*:2: query 'q1' has no text"),
        ("queries", {"id": ["q0"], "text": ["x"]}, r"1 judged queries are not among the 1 queries, .*'q1' at .*:2"),
        (
            "qrels",
            {"query-id": ["q0"], "corpus-id": ["d0"]},
            r"qrels/test.*:1 is not a judgement \(query-id, c",
        ),
        ("qrels", {"query-id": ["q0"], "corpus-id": ["d0"], "score": [0.5]}, r"qrels/test.*:1 is not a judgement"),
        ("qrels", {"query-id": ["q0"], "corpus-id": ["d0"], "score": [0]}, r"none of 2 queries has a passage that is"),
    ],
)
def test_a_file_of_mteb_s_that_is_wrong_is_named(xpqa, part, columns, message):
    write_rows(xpqa / f"deu-deu-{part}" / "test-00000-of-00001.parquet", columns)
    with pytest.raises(InputError, match=message):
        load_test("xpqa", str(xpqa))


def test_a_part_that_is_missing_or_a_subset_of_no_language_is_named(xpqa):
    (xpqa / "eng-deu-queries/test-00000-of-00001.parquet").unlink()
    with pytest.raises(InputError, match=r"no file eng-deu-queries/test-\*.parquet in"):
        load_test("xpqa", str(xpqa))
    write_subset(xpqa, "klingon", queries=["x"], corpus=["a"], qrels=[("q0", "d0", 1)])
    with pytest.raises(InputError, match=r"XPQARetrieval: unknown language 'klingon'"):
        load_test("xpqa", str(xpqa))


# Belebele


def question(link: str, number: int, passage: str, text: str) -> dict:
    answers = {f"mc_answer{i}": "-" for i in range(1, 5)}
    row = {"link": f"https://en.wikinews.org/wiki/{link}", "question_number": number, "flores_passage": passage}
    return row | {"question": text} | answers | {"correct_answer_num": "1", "dialect": "-", "ds": "2023-05-03"}


@pytest.fixture
def belebele(tmp_path):
    """Two passages in German, where the first has two questions, and in English; the files of facebook/belebele."""
    german = [question("One", 1, "a", "x"), question("One", 2, "a", "1 y"), question("Two", 1, "d", "2 y")]
    english = [question("Two", 1, "c", "y"), question("One", 1, "b", "x")]
    write(tmp_path / "data/deu_Latn.jsonl", json_lines(*german))
    write(tmp_path / "data/eng_Latn.jsonl", json_lines(*english))
    write(tmp_path / "data/arb_Latn.jsonl", "not read")
    return tmp_path


def test_belebele_is_one_pool_of_its_languages_and_each_pair_is_ranked_alone(belebele):
    """Of the English x, `a` and `b` answer, of the German "1 y" too, which finds d, c, b, a in this order."""
    test = load_test("belebele", str(belebele), languages=["de", "en"])
    result = measured(test, belebele)
    found = {query_id: row["AP"] for query_id, row in rows_of(result).items()}
    assert found == {
        "de/q1": 1.0,
        "de/q2": pytest.approx((1 / 3 + 2 / 4) / 2),
        "de/q3": 1.0,
        "en/q4": 1.0,
        "en/q5": 1.0,
    }
    pairs = {(row["language"], row["passage_language"]): row for row in summarize(result, resamples=0)["pairs"]}
    assert {pair: row["queries"] for pair, row in pairs.items()} == {
        ("de", "de"): 3, ("de", "en"): 3, ("en", "de"): 2, ("en", "en"): 2,
    }  # fmt: skip
    assert pairs["de", "en"]["RR@10"] == pytest.approx((1 + 1 / 2 + 1) / 3)  # c before b of "1 y"
    assert count_texts(test) == 5 + 4


def test_equal_questions_of_a_language_are_one_query_that_both_passages_answer(belebele):
    write(belebele / "data/deu_Latn.jsonl", json_lines(question("One", 1, "a", "x"), question("Two", 1, "d", "x")))
    assert rows_of(measured(load_test("belebele", str(belebele), languages=["de"]), belebele))["de/q1"]["AP"] == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"belebele needs --languages, such as de,en,sw"),
        ({"languages": ["sw"]}, r"no sw in .*; its languages are: ar de en"),
        ({"languages": ["ar"]}, r"arb_Latn.jsonl:1 is not a JSON object: 'not read'"),
        ({"languages": ["de"], "split": "dev"}, r"belebele is all one split, test, got --split dev"),
        ({"languages": ["de"], "language": "de"}, r"--language goes with beir, trec, judged, not with belebele"),
    ],
)
def test_what_belebele_cannot_read_is_named(belebele, options, message):
    with pytest.raises(InputError, match=message):
        load_test("belebele", str(belebele), **options)


def test_a_line_of_belebele_without_a_passage_is_named(belebele):
    write(belebele / "data/eng_Latn.jsonl", json_lines(question("One", 1, " ", "x")))
    with pytest.raises(InputError, match=r"eng_Latn.jsonl:1 is not a question of Belebele \(link, flores_passage, q"):
        load_test("belebele", str(belebele), languages=["en"])


# As a result of mteb's


def test_pairs_of_belebele_are_mteb_s_subsets_passages_first(belebele):
    test = load_test("belebele", str(belebele), languages=["de", "en"])
    summary = summarize(measured(test, belebele), resamples=0) | {"seconds": 1.5}
    written = mteb_result(test.mteb, "content", summary)
    assert (written["task_name"], list(written["scores"])) == ("BelebeleRetrieval", ["test"])
    rows = {row["hf_subset"]: row for row in written["scores"]["test"]}
    assert rows["eng_Latn-deu_Latn"]["languages"] == ["eng-Latn", "deu-Latn"]
    assert rows["eng_Latn-deu_Latn"]["mrr_at_10"] == pytest.approx((1 + 1 / 2 + 1) / 3)
    alone = load_test("belebele", str(belebele), languages=["de"])
    summary = summarize(measured(alone, belebele), resamples=0) | {"seconds": 1.5}
    (row,) = mteb_result(alone.mteb, "content", summary)["scores"]["test"]
    assert (row["hf_subset"], row["languages"]) == ("deu_Latn-deu_Latn", ["deu-Latn"])


def test_the_first_measure_is_the_main_score_and_und_has_no_language():
    values = {"nDCG@20": 0.5, "AP": 0.25}
    summary = {"measures": values, "per_language": {"und": values}, "seconds": 2.0}
    assert mteb_result(MtebTask("NeuCLIR2022Retrieval"), "c", summary) == {
        "dataset_revision": "c",
        "task_name": "NeuCLIR2022Retrieval",
        "mteb_version": None,
        "evaluation_time": 2.0,
        "scores": {
            "test": [
                {"hf_subset": "und", "languages": [], "main_score": 0.5, "ndcg_at_20": 0.5, "map_at_1000": 0.25},
            ]
        },
    }


@pytest.mark.parametrize(
    ("tag", "expected"),
    [("de", "deu-Latn"), ("zh", "zho-Hans"), ("zh_tw", "zho-Hant"), ("cmn", "cmn-Hans"), ("arb_Arab", "arb-Arab"),
     ("ger", "deu-Latn"), ("no", "nor-Latn"), ("yue", "yue-Hant"), ("sr-Latn", "srp-Latn"), ("und", "")],
)  # fmt: skip
def test_a_tag_is_written_as_mteb_writes_languages(tag, expected):
    assert language_and_script(tag) == expected


def test_every_language_that_is_known_has_three_letters_and_no_two_have_the_same():
    written = [language_and_script(code) for code in sorted(FAMILY)]
    assert all(len(text) == 8 for text in written)
    assert len(set(written)) == len(written)


# With an encoder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(make_preset(tmp_path_factory.mktemp("encoder")))


def test_the_command_measures_a_data_set_and_writes_it_as_mteb_s(xpqa, checkpoint, tmp_path, monkeypatch):
    out = tmp_path / "out"
    arguments = ["--checkpoint", checkpoint, "--collection", "xpqa", "--path", str(xpqa), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["hybrid-ir", "evaluate", *arguments, "evaluate.bootstrap_rounds=20"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert not left.value.code
    summary = json.loads((out / "metrics.json").read_text())
    written = json.loads((out / "mteb.json").read_text())
    assert written["task_name"] == "XPQARetrieval"
    assert {row["hf_subset"]: row["main_score"] for row in written["scores"]["test"]} == {
        name: row["nDCG@10"] for name, row in summary["per_language"].items()
    }


def test_a_data_set_has_a_content_so_that_encoders_are_compared_on_it(xpqa):
    before = load_test("xpqa", str(xpqa)).content
    assert before == load_test("xpqa", str(xpqa)).content
    assert before != load_test("xpqa", str(xpqa), languages=["de"]).content
    write_subset(xpqa, "cmn-eng", queries=["y"], corpus=["c"], qrels=[("q0", "d0", 1)])
    assert before != load_test("xpqa", str(xpqa)).content
