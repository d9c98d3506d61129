"""Test sets of a user's own, in three layouts: small enough that every measure is worked out by pencil; and what is
wrong with one is a sentence that names the place.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import ir_measures
import numpy as np
import pyarrow.parquet as pq
import pytest
from checkpoints import make_preset
from task_files import json_lines, rows_of, write
from typed_commands import split as split_command

from hybrid_ir.cli import app as cli
from hybrid_ir.config.loading import load_experiment
from hybrid_ir.encoders.loading import load_encoder
from hybrid_ir.evaluation.comparisons import encoder_comparison
from hybrid_ir.evaluation.comparisons.encoder_comparison import compare_encoders
from hybrid_ir.evaluation.evaluator import count_texts, evaluate, load_test
from hybrid_ir.evaluation.ranking import BestPassages, measure_run, rank_passages, rank_pools
from hybrid_ir.evaluation.tasks.result import summarize
from hybrid_ir.evaluation.test_sets.judged_set import LanguageText
from hybrid_ir.evaluation.test_sets.layouts import load_test_set
from hybrid_ir.evaluation.test_sets.measure import measure_judged
from hybrid_ir.types import Collection, InputError, Passage

PAGE = (Path(__file__).parents[1] / "docs" / "evaluate.md").read_text(encoding="utf-8")


def looked_up(texts, languages):
    """The vectors of VECTORS, whatever the role."""
    return np.array([VECTORS[text] for text in texts], np.float32)


def measured(test, folder):
    return measure_judged(test, looked_up, looked_up, folder / "runs")


# Scores of `height`: d2 .8, d1 .6, d3 0, q2 0, so that d2, d1, q2 and d3 come in this order (q2 before d3 by its id).
# Scores of `bridge`: q2 1, d1 .8, d2 .6, d3 0.
VECTORS = {
    "height": [1, 0, 0],
    "bridge": [0, 1, 0],
    "Old tower": [0.6, 0.8, 0],
    "tall": [0.8, 0.6, 0],
    "lake": [0, 0, 1],
}
CORPUS = [
    {"_id": "d1", "title": "Old", "text": "tower", "metadata": {}},
    {"_id": "d2", "title": "", "text": "tall", "metadata": {"language": "deu"}},
    {"_id": "d3", "text": "lake"},
    {"_id": "q2", "title": "", "text": "bridge"},
    {"_id": "d5", "title": "", "text": " "},
]
QUERIES = [{"_id": f"q{i}", "text": text, "metadata": {}} for i, text in enumerate(("height", "bridge", "x", "y"), 1)]
HEADER = "query-id\tcorpus-id\tscore\n"
QRELS = HEADER + "q1\td1\t2\nq1\td2\t1\nq1\td3\t0\nq2\td3\t1\nq2\td9\t3\nq4\td1\t0\n"

IDEAL = 2 + 1 / np.log2(3)  # d1 (2), then d2 (1)
BY_PENCIL = {
    # d2 (1) first and d1 (2) second.
    "q1": {"nDCG@10": (1 + 2 / np.log2(3)) / IDEAL, "RR@10": 1.0, "R@100": 1.0, "AP": 1.0},
    # d1, d2, d3 (1): q2 itself is no answer of q2. The passage of grade 3 is not in the corpus.
    "q2": {"nDCG@10": (1 / np.log2(4)) / (3 + 1 / np.log2(3)), "RR@10": 1 / 3, "R@100": 0.5, "AP": 1 / 6},
}


@pytest.fixture
def beir(tmp_path):
    """The layout of beir's GenericDataLoader (beir-cellar/beir, beir/datasets/data_loader.py, 46141ea). q3 is not
    judged, q4 has nothing relevant, d5 has no text, d9 is not in the corpus."""
    write(tmp_path / "corpus.jsonl", json_lines(*CORPUS))
    write(tmp_path / "queries.jsonl", json_lines(*QUERIES))
    write(tmp_path / "qrels/test.tsv", QRELS)
    return tmp_path


@pytest.fixture
def trec(tmp_path):
    """The same queries, passages and judgements as TREC has them; without the passage q2."""
    write(tmp_path / "topics.tsv", "q1\theight\nq2\tbridge\nq3\tx\nq4\ty\n")
    write(tmp_path / "qrels.txt", "".join(" 0 ".join(r.split("\t", 1)) for r in QRELS.splitlines(True)[1:]))
    write(tmp_path / "docs.tsv", "d1\tOld tower\nd2\ttall\nd3\tlake\nd5\t\n")
    return tmp_path


TREC = {"topics": "topics.tsv", "qrels": "qrels.txt", "corpus": "docs.tsv"}


@pytest.fixture
def judged(tmp_path):
    """qa is English and finds d2 (de) .8, d1 (en) .6, d3 (en) 0; qb is German and finds d1 .8, d2 .6, d3 0."""
    queries = [("qa", "height", "en"), ("qb", "bridge", "de")]
    passages = [("d1", "Old tower", "en"), ("d2", "tall", "de"), ("d3", "lake", "eng")]
    grades = [("qa", "d1", 1), ("qa", "d2", 2), ("qb", "d3", 1), ("qb", "d2", -1)]
    write(tmp_path / "queries.jsonl", json_lines(*({"query_id": q, "text": t, "language": x} for q, t, x in queries)))
    write(tmp_path / "passages.jsonl", json_lines(*({"doc_id": d, "text": t, "language": x} for d, t, x in passages)))
    write(tmp_path / "judgements.jsonl", json_lines(*({"query_id": q, "doc_id": d, "grade": g} for q, d, g in grades)))
    return tmp_path


# What is measured


def test_a_beir_folder_is_measured_as_worked_by_pencil(beir):
    result = measured(load_test_set("beir", str(beir), language="en"), beir)
    found = rows_of(result)
    assert list(found) == ["q1", "q2"]
    for query_id, values in BY_PENCIL.items():
        assert found[query_id] == pytest.approx({"language": "en", **values})
    assert result.counts == {
        "per_language": {
            "en": {
                "queries": 2,
                "unjudged queries": 1,
                "queries without relevant": 1,
                "relevant not in corpus": 1,
                "queries with relevant not in corpus": 1,
            }
        },
        "left_out": {
            "unjudged queries": 1,
            "queries without relevant": 1,
            "relevant not in corpus": 1,
            "passages without text": 1,
        },
        "passages": {"de": 1, "en": 3},
    }


def test_trec_eval_reads_the_run_and_the_judgements_and_says_the_same(beir):
    """The means over all queries are those of the files, read anew."""
    summary = summarize(measured(load_test_set("beir", str(beir)), beir), resamples=0)
    assert (beir / "runs" / "all.trec").read_text().splitlines()[:2] == [
        "q1 Q0 d2 1 0.800000012 hybrid-ir",
        "q1 Q0 d1 2 0.600000024 hybrid-ir",
    ]
    run = ir_measures.read_trec_run(str(beir / "runs" / "all.trec"))
    qrels = ir_measures.read_trec_qrels(str(beir / "runs" / "qrels.trec"))
    names = {ir_measures.parse_measure(name): name for name in summary["over_queries"]}
    again = ir_measures.calc_aggregate(list(names), qrels, run)
    assert {names[m]: value for m, value in again.items()} == pytest.approx(summary["over_queries"])


def test_beir_s_split_and_packed_files_are_found(beir):
    write(beir / "qrels/dev.tsv", HEADER + "q3\td1\t1\n")
    write(beir / "corpus.jsonl.gz", (beir / "corpus.jsonl").read_text())
    (beir / "corpus.jsonl").unlink()
    test = load_test("beir", str(beir), split="dev")
    assert count_texts(test) == 1 + 4
    assert list(load_test_set("beir", str(beir), split="dev").qrels) == ["q3"]
    with pytest.raises(InputError, match=r"no file .*qrels/train.tsv; found dev.tsv, test.tsv"):
        load_test_set("beir", str(beir), split="train")


def test_trec_s_files_are_measured_as_worked_by_pencil(trec):
    found = rows_of(measured(load_test_set("trec", str(trec), **TREC), trec))
    for query_id, values in BY_PENCIL.items():
        assert found[query_id] == pytest.approx({"language": "und", **values})


BLOCKS = """<top>
<num> Number: q1
<title> height

<desc> Description:
How high?
</top>

<TOP><num>q2</num><title>Topic:
 bridge</title></TOP>
"""


def test_the_topics_of_the_ad_hoc_tracks_are_read_by_number_and_title(trec):
    write(trec / "topics.tsv", BLOCKS)
    write(trec / "qrels.txt", "q1 0 d1 1\nq2 0 d1 1\n\n")
    test = load_test_set("trec", str(trec), **TREC, language="en")
    assert {q: (text.text, text.language) for q, text in test.queries.items()} == {
        "q1": ("height", "en"),
        "q2": ("bridge", "en"),
    }


@pytest.mark.parametrize("name", ["doc_id", "docid", "_id", "id"])
def test_trec_s_passages_may_be_json_lines_of_several_makers(trec, name):
    """MIRACL's, BEIR's and Pyserini's; also two files whose names are no neighbours of the topics."""
    text = "contents" if name == "id" else "text"
    write(trec / "elsewhere/docs.jsonl.gz", json_lines({name: 1, text: "tall"}, {name: "d1", text: "lake"}))
    write(trec / "qrels.txt", "q1 0 1 1\n")
    test = load_test_set("trec", str(trec), **(TREC | {"corpus": str(trec / "elsewhere/docs.jsonl")}))
    assert [(passage.text_id, passage.text) for passage in test.read_passages()] == [("1", "tall"), ("d1", "lake")]


@pytest.mark.parametrize(("position", "expected"), [(1, 1.0), (10, 0.1), (11, 0.0), (20, 0.0)])
def test_a_reciprocal_rank_at_10_is_0_below_the_10th(position, expected):
    run = {"q": {f"d{i}": 100.0 - i for i in range(1, 31)}}
    (value,) = measure_run({"q": {f"d{position}": 1}}, run, ["RR@10"])["RR@10"]
    assert value == pytest.approx(expected)


def test_a_set_of_several_languages_is_averaged_by_language_and_by_pair(judged):
    result = measured(load_test_set("judged", str(judged)), judged)
    found = rows_of(result)
    assert found["qa"] == pytest.approx({"language": "en", "nDCG@10": 1, "RR@10": 1, "R@100": 1, "AP": 1})
    assert found["qb"] == pytest.approx({"language": "de", "nDCG@10": 0.5, "RR@10": 1 / 3, "R@100": 1, "AP": 1 / 3})
    summary = summarize(result, resamples=0)
    assert summary["measures"]["nDCG@10"] == pytest.approx(0.75)
    # Among German passages qa finds d2 first; among English ones qa finds d1 first, and qb d3 second, after d1.
    second = {"nDCG@10": 1 / np.log2(3), "RR@10": 0.5, "R@100": 1, "AP": 0.5}
    first = dict.fromkeys(second, 1)
    pairs = {(row.pop("language"), row.pop("passage_language")): row for row in summary["pairs"]}
    assert list(pairs) == [("de", "en"), ("en", "de"), ("en", "en")]  # no German passage answers qb
    assert pairs["de", "en"] == pytest.approx({"queries": 1, **second})
    assert pairs["en", "de"] == pytest.approx({"queries": 1, **first})
    assert pairs["en", "en"] == pytest.approx({"queries": 1, **first})


def test_the_mean_is_over_languages_and_trec_eval_s_is_over_queries(judged):
    with (judged / "queries.jsonl").open("a") as more, (judged / "judgements.jsonl").open("a") as grades:
        more.write(json_lines({"query_id": "qc", "text": "height", "language": "en"}))
        grades.write(json_lines({"query_id": "qc", "doc_id": "d2", "grade": 1}))
    summary = summarize(measured(load_test_set("judged", str(judged)), judged), resamples=0)
    # en: 1 and 1; de: 1/3.
    assert summary["measures"]["AP"] == pytest.approx((1 + 1 / 3) / 2)
    assert summary["over_queries"]["AP"] == pytest.approx((1 + 1 + 1 / 3) / 3)


def test_languages_keeps_queries_and_the_whole_pool(judged):
    test = load_test_set("judged", str(judged), languages=["ger"])
    assert list(test.queries) == ["qb"]
    assert test.n_passages == {"en": 2, "de": 1}
    with pytest.raises(InputError, match=r"no query is in sw; their languages are: de en"):
        load_test_set("judged", str(judged), languages=["sw"])


def test_pools_of_languages_are_what_ranking_each_alone_gives():
    """Ranked in chunks of 3, the pool of a language has what its passages alone have; merged, what all have."""
    generator = np.random.default_rng(3)
    vectors = {f"t{i}": generator.integers(-2, 3, 3).astype(np.float32) for i in range(30)}  # with many ties
    texts = [LanguageText(f"d{i}", ("de", "en", "sw")[i % 7 % 3], f"t{i}", "") for i in range(30)]
    queries = generator.integers(-2, 3, (4, 3)).astype(np.float32)

    def encode(names, languages):
        return np.array([vectors[name] for name in names])

    def alone(kept):
        best, _ = rank_passages(queries, [Passage(t.text_id, t.text) for t in kept], encode, depth=5)
        return best.run("abcd")

    pools = rank_pools(queries, texts, encode, depth=5, chunk=3)
    merged = BestPassages(4, 5)
    for code, pool in pools.items():
        assert pool.run("abcd") == alone([t for t in texts if t.language == code])
        merged.merge(pool)
    assert merged.run("abcd") == alone(texts)


# What is wrong


def changed(records, number, **values):
    return json_lines(*(record | (values if i == number else {}) for i, record in enumerate(records)))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("corpus.jsonl", "{\n", r"corpus.jsonl:1 is not a JSON object"),
        ("corpus.jsonl", '{"_id": "d1"}\n', r"corpus.jsonl:1 needs _id, and text: found _id; correct"),
        ("corpus.jsonl", changed(CORPUS, 1, _id="d1"), r"corpus.jsonl:2 repeats passage 'd1'; keep one"),
        ("corpus.jsonl", changed(CORPUS, 1, _id=" d2"), r"corpus.jsonl:2: passage ' d2' needs an id without white"),
        ("corpus.jsonl", changed(CORPUS, 1, _id="d 2"), r"corpus.jsonl:2: passage 'd 2' needs an id without white"),
        ("corpus.jsonl", changed(CORPUS, 1, title=["a"]), r"corpus.jsonl:2 needs _id, and text"),
        ("corpus.jsonl", changed(CORPUS, 0, language="xx"), r"corpus.jsonl:1: unknown language 'xx'; use .* or und"),
        ("corpus.jsonl", changed(CORPUS[4:], 9), r"no passage has a text, of 1; check"),
        (
            "corpus.jsonl",
            changed(CORPUS[3:], 9),
            r"none of the relevant passages is among the 1 passages, 'd1' for",
        ),
        ("queries.jsonl", changed(QUERIES, 1, _id="q1"), r"queries.jsonl:2 repeats query 'q1'; keep one"),
        ("queries.jsonl", changed(QUERIES, 1, text=" "), r"queries.jsonl:2: query 'q2' has no text; give it one"),
        ("queries.jsonl", changed(QUERIES[:1], 9), r"2 judged queries are not among the 1 queries, .*'q2' at .*tsv:5"),
        ("qrels/test.tsv", QRELS.removeprefix(HEADER), r"test.tsv:1 is a judgement, and must be the header: query-id"),
        ("qrels/test.tsv", HEADER + "q1\td1\n", r"test.tsv:2 is not a judgement .*'q1 d1'"),
        ("qrels/test.tsv", HEADER + "q1\td1\tyes\n", r"test.tsv:2 is not a judgement"),
        (
            "qrels/test.tsv",
            HEADER + "q1\td1\t1\nq1\td1\t2\n",
            r"tsv:3 gives passage 'd1' of query 'q1' the grade 2",
        ),
        ("qrels/test.tsv", HEADER + "q1\td1\t0\n", r"none of 4 queries has a passage that is judged relevant"),
        ("qrels/test.tsv", HEADER, r"none of 4 queries has a passage that is judged relevant"),
    ],
)
def test_a_beir_folder_that_is_wrong_is_named(beir, file, text, message):
    write(beir / file, text)
    with pytest.raises(InputError, match=message):
        load_test_set("beir", str(beir))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("topics.tsv", "q1 height\n", r"topics.tsv:1 is not a topic .*'q1 height'"),
        ("topics.tsv", "q1\ta\nq1\tb\n", r"topics.tsv:2 repeats query 'q1'"),
        ("topics.tsv", "<top>\n<num> q1\n<desc> x\n</top>\n", r"topics.tsv:1: a topic has nothing in its <title>"),
        ("topics.tsv", "<top>\n<title> a\n</top>\n", r"topics.tsv:1: a topic has nothing in its <num>"),
        ("topics.tsv", "<top>\n<num> q1\n<title> a\n", r"topics.tsv:1 begins a topic that no </top> ends"),
        ("topics.tsv", "<top>\n<num> q1\n<top>\n", r"topics.tsv:3 begins a topic within that of line 1"),
        ("topics.tsv", BLOCKS + "q3\tx\n", r"topics.tsv:11 stands outside of <top> and </top>"),
        ("topics.tsv", "", r"3 judged queries are not among the 0 queries"),
        (
            "qrels.txt",
            "q1 d1 1\n",
            r"qrels.txt:1 is not a judgement \(query_id, Q0, docid, a whole number\): 'q1 d1",
        ),
        ("qrels.txt", "q1 0 d1 1.5\n", r"qrels.txt:1 is not a judgement"),
        ("docs.tsv", "d1 Old tower\n", r"docs.tsv:1 is not a passage \(id, tab, text\)"),
        ("docs.tsv", "d1\ta\nd1\ta\n", r"docs.tsv:2 repeats passage 'd1'"),
    ],
)
def test_trec_files_that_are_wrong_are_named(trec, file, text, message):
    write(trec / file, text)
    with pytest.raises(InputError, match=message):
        load_test_set("trec", str(trec), **TREC)


@pytest.mark.parametrize(
    ("file", "record", "message"),
    [
        ("queries.jsonl", {"id": "qa", "text": "x"}, r"queries.jsonl:1 needs query_id, and text: found id, text"),
        ("passages.jsonl", {"doc_id": "d1", "text": None}, r"passages.jsonl:1 needs doc_id, and text"),
        (
            "judgements.jsonl",
            {"query_id": "qa", "doc_id": "d1"},
            r"judgements.jsonl:1 is not a judgement .*found q",
        ),
        ("judgements.jsonl", {"query_id": "qa", "doc_id": "d1", "grade": True}, r"judgements.jsonl:1 is not a judgem"),
        ("judgements.jsonl", {"query_id": "qz", "doc_id": "d1", "grade": 1}, r"1 judged queries are not among the 2"),
    ],
)
def test_judged_files_that_are_wrong_are_named(judged, file, record, message):
    write(judged / file, json_lines(record))
    with pytest.raises(InputError, match=message):
        load_test_set("judged", str(judged))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("trec", {"topics": "a"}, "trec needs --topics, --qrels and --corpus"),
        ("trec", TREC | {"corpus": "docs.xml"}, r"passages must be .jsonl or .tsv, plain or .gz, got docs.xml"),
        ("trec", TREC | {"topics": "none.tsv"}, r"no file .*none.tsv; found docs.tsv, qrels.txt, topics.tsv"),
        ("beir", {"topics": "a"}, "--topics goes with trec, not with beir; leave it out"),
        ("xcopa", {"language": "en"}, "--language goes with beir, trec, judged, not with xcopa"),
        ("tatoeba", {"corpus": "a"}, "--corpus goes with miracl, trec, not with tatoeba"),
        ("judged", {"split": "dev"}, "judged has no splits, got --split dev"),
        ("judged", {"language": "english"}, r"--language: unknown language 'english'; use an ISO 639 code"),
    ],
)
def test_options_that_do_not_fit_are_refused(trec, name, options, message):
    with pytest.raises(InputError, match=message):
        load_test(name, str(trec), **options)


# With an encoder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(make_preset(tmp_path_factory.mktemp("encoder")))


def test_the_files_of_an_evaluation_have_the_pairs_and_those_of_the_next_have_not(judged, checkpoint):
    experiment = load_experiment(None, ["evaluate.precision=fp32", "evaluate.bootstrap_rounds=50"])
    model, out = load_encoder(checkpoint), judged / "out"
    summary = evaluate(model, "a/checkpoint", load_test("judged", str(judged)), out, experiment)
    assert json.loads((out / "metrics.json").read_text()) == summary
    assert pq.read_table(out / "per_query.parquet").num_rows == 2
    assert pq.read_table(out / "per_pair.parquet").num_rows == len(summary["pairs"]) == 3
    for measure, mean in summary["measures"].items():
        low, high = summary["intervals"][measure]
        assert low <= mean <= high
    assert "<h2>Pairs of languages</h2>" in (out / "report.html").read_text()
    passages = (judged / "passages.jsonl").read_text()
    write(judged / "passages.jsonl", re.sub(r', "language": "\w+"', "", passages))
    summary = evaluate(model, "a/checkpoint", load_test("judged", str(judged), language="en"), out, experiment)
    assert "pairs" not in summary
    assert not (out / "per_pair.parquet").exists()
    assert "<h2>Pairs of languages</h2>" not in (out / "report.html").read_text()


def test_encoders_are_compared_query_by_query_and_measured_once(judged, checkpoint, tmp_path, monkeypatch):
    """The same weights twice show no difference; a grade that changes makes another test, which is measured."""
    test = load_test("judged", str(judged))
    experiment = load_experiment(None, ["evaluate.precision=fp32", "evaluate.bootstrap_rounds=20"])
    encoders = {"one": checkpoint, "again": checkpoint}
    summaries, comparisons = compare_encoders(encoders, test, tmp_path / "compared", experiment)
    assert [(c.first, c.second, c.measure) for c in comparisons] == [
        ("again", "one", measure) for measure in ("nDCG@10", "RR@10", "R@100", "AP")
    ]
    assert {(c.difference, c.p, c.questions) for c in comparisons} == {(0.0, 1.0, 2)}
    for c in comparisons:
        assert c.values[0] == pytest.approx(summaries["one"]["over_queries"][c.measure])
    written = json.loads((tmp_path / "compared" / "comparison.json").read_text())
    assert written["encoders"]["one"]["measures"] == summaries["one"]["measures"]
    assert written["encoders"]["one"]["cost"]["dimension"] == 128
    page = (tmp_path / "compared" / "comparison.html").read_text()
    assert all(f"<h2>{title}</h2>" in page for title in ("Against one", "Cost", "Pairs of languages"))

    def refuse(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr(encoder_comparison, "evaluate", refuse)
    assert compare_encoders(encoders, test, tmp_path / "compared", experiment)[0] == summaries
    grades = (judged / "judgements.jsonl").read_text()
    write(judged / "judgements.jsonl", grades.replace('"grade": 2', '"grade": 3'))
    with pytest.raises(AssertionError, match="measured again"):
        compare_encoders(encoders, load_test("judged", str(judged)), tmp_path / "compared", experiment)


def test_bm25_is_not_ranked_on_a_test_set(judged, monkeypatch, capsys):
    arguments = ["--encoders", "a", "--collection", "judged", "--path", str(judged), "--out", "o", "--bm25"]
    monkeypatch.setattr(sys, "argv", ["hybrid-ir", "compare", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: BM25 is not ranked on judged; leave --bm25 out\n"


def test_the_page_s_example_is_a_test_set_and_its_command_measures_it(tmp_path, checkpoint, monkeypatch, capsys):
    """The three blocks of JSON of "Your own test set" are the three files, and the first command there reads them."""
    section = PAGE.partition("## Your own test set\n")[2].partition("\n## ")[0]
    files = re.findall(r"^```json\n(.*?)^```", section, re.M | re.S)
    for name, text in zip(("queries", "passages", "judgements"), files, strict=True):
        write(tmp_path / "mine" / f"{name}.jsonl", text)
    command = re.findall(r"^```bash\n(.*?)^```", section, re.M | re.S)[0].replace("\\\n", " ")
    (argv,) = split_command(command)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [checkpoint if word == "CKPT" else word for word in argv])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert not left.value.code
    said = capsys.readouterr().out
    assert re.search(r"^nDCG@10 of queries in the row's .*\n +de +en *\nde +- +\d", said, re.M)
    summary = json.loads((tmp_path / "OUT" / "metrics.json").read_text())
    assert list(summary["per_language"]) == ["de", "en"]
    assert summary["counts"]["left_out"] == dict.fromkeys(summary["counts"]["left_out"], 0)


# Long passages, by document


def halves(texts, languages):
    """Pieces of texts that have a bar in the middle: what is before it and what is behind it."""
    rows = []
    for n, text in enumerate(texts):
        before, bar, _ = text.partition(" | ")
        rows += [(n, 0, len(before)), *([(n, len(before) + 3, len(text))] if bar else [])]
    return np.array(rows, np.int32)


def test_a_passage_has_the_score_of_its_best_piece_and_stands_once_in_the_run(judged):
    """Scores of `height`: Old tower .6, tall .8, lake 0. So d4 has .8 by its second piece, as d2, and d3 .6 by its
    first; of `bridge` d4 has .6 and d3 .8."""
    records = [
        ("d1", "lake", "en"),
        ("d2", "tall", "de"),
        ("d3", "Old tower | lake", "en"),
        ("d4", "lake | tall", "de"),
    ]
    texts = json_lines(*({"doc_id": d, "text": t, "language": x} for d, t, x in records))
    write(judged / "passages.jsonl", texts)
    result = measure_judged(load_test_set("judged", str(judged)), looked_up, looked_up, judged / "runs", halves)
    run = [line.split()[:5] for line in (judged / "runs" / "all.trec").read_text().splitlines()]
    assert [(q, d, float(score)) for q, _, d, _, score in run] == [
        *(("qa", d, pytest.approx(score)) for d, score in (("d4", 0.8), ("d2", 0.8), ("d3", 0.6), ("d1", 0))),
        *(("qb", d, pytest.approx(score)) for d, score in (("d3", 0.8), ("d4", 0.6), ("d2", 0.6), ("d1", 0))),
    ]
    assert (result.counts["pieces"], result.counts["passages in pieces"]) == (6, 2)
    assert rows_of(result)["qb"]["RR@10"] == 1, "d3 is relevant to it"


def test_the_page_s_command_measures_long_passages_whole_and_other_collections_refuse(tmp_path, monkeypatch, capsys):
    """The only judgement is of a passage whose words stand at its end, behind all that the encoder reads."""
    section = PAGE.partition("### Long passages\n")[2].partition("\n## ")[0]
    (argv,) = split_command(re.findall(r"^```bash\n(.*?)^```", section, re.M | re.S)[0])
    make_preset(tmp_path / "CKPT", max_tokens=256)
    words = ["Paris", "is", "the", "capital", "of", "France", "on", "the", "river", "Seine"]
    long = " ".join(words[n * n % 10] for n in range(400))
    write(tmp_path / "mine/queries.jsonl", json_lines({"query_id": "q", "text": "Berlin", "language": "en"}))
    passages = [{"doc_id": "d1", "text": f"{long} Berlin", "language": "en"}, {"doc_id": "d2", "text": "Seine"}]
    write(tmp_path / "mine/passages.jsonl", json_lines(*passages))
    write(tmp_path / "mine/judgements.jsonl", json_lines({"query_id": "q", "doc_id": "d1", "grade": 1}))
    monkeypatch.chdir(tmp_path)
    found = {}
    for name, words_typed in (("whole", argv), ("cut", [w for w in argv if "pieces" not in w])):
        monkeypatch.setattr(sys, "argv", words_typed)
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert not left.value.code
        summary = json.loads((tmp_path / "OUT" / "metrics.json").read_text())
        found[name] = summary["counts"], summary["made_from"], " ".join(capsys.readouterr().out.split())
    counts, made_from, said = found["whole"]
    assert (counts["passages in pieces"], counts["cut"]) == (1, 0)
    assert f"cut: 1 long passage; {counts['pieces']} pieces are ranked" in said
    assert made_from.pop("pieces") == [256, 32]
    counts, same, said = found["cut"]
    assert (counts["cut"], "pieces" in counts) == (1, False)
    assert "longer than the encoder reads: 1 passage, whose ends were not ranked" in said
    assert same == made_from, "the two are not taken for each other, and differ in nothing else"
    collection = Collection("store", [], [])
    with pytest.raises(
        InputError, match=r"tokens=256 is for test sets of your own \(beir, trec, judged\).*store is of"
    ):
        evaluate(None, "x", collection, tmp_path, load_experiment(None, ["index.pieces.tokens=256"]))  # type: ignore[arg-type]
