"""The public tasks on files small enough to see whole, on hand-made vectors, and on the real files with a tiny
encoder.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checkpoints import make_preset
from readers import DATA, needs_data
from task_files import json_lines, rows_of, write

from hybrid_ir.cli import app as cli
from hybrid_ir.config.loading import load_experiment
from hybrid_ir.encoders.loading import load_encoder
from hybrid_ir.evaluation.evaluator import evaluate as run_evaluation, load_test
from hybrid_ir.evaluation.public_tasks import load_task
from hybrid_ir.evaluation.tasks.mewsli_x import Mention, load_mewsli, measure_mewsli
from hybrid_ir.evaluation.tasks.miracl import load_miracl, measure_miracl
from hybrid_ir.evaluation.tasks.result import TaskResult, per_query_table, summarize
from hybrid_ir.evaluation.tasks.tatoeba import Pair, load_tatoeba, measure_tatoeba, nearest_is_own
from hybrid_ir.evaluation.tasks.xcopa import Choice, chosen_right, load_xcopa, measure_xcopa
from hybrid_ir.types import InputError


def looked_up(vectors):
    """An encoder that knows the vector of each text."""
    return lambda texts, languages: np.float32([vectors[text] for text in texts])


# Averages


def result_of(**values):
    rows = {language: ([f"{language}{i}" for i in range(len(v))], {"m": np.array(v)}) for language, v in values.items()}
    return TaskResult(("m",), per_query_table(rows), {"per_language": {}, "left_out": {}})


def test_the_mean_is_over_languages_and_not_over_queries():
    # en (1 + 0 + 0 + 0) / 4 = 1/4, de 1 -> 5/8; over queries it would be 2/5.
    summary = summarize(result_of(en=[1.0, 0, 0, 0], de=[1.0]), resamples=0)
    assert summary["per_language"] == {"de": {"m": 1.0}, "en": {"m": 0.25}}
    assert summary["measures"] == {"m": 0.625}
    assert summary["intervals"] == {"m": [None, None]}


def test_intervals_keep_each_language_s_size():
    # Every query of a language scores alike, so no resample that keeps the sizes can move the mean.
    summary = summarize(result_of(en=[1.0] * 9, de=[0.0] * 3, th=[0.5]), resamples=50)
    assert summary["intervals"]["m"] == pytest.approx([0.5, 0.5])


def test_intervals_hold_the_mean_repeat_with_the_seed_and_are_as_wide_as_theory_says():
    values = np.random.default_rng(0).random(400).round()
    first, again, other = (summarize(result_of(en=values), seed=s, resamples=500) for s in (1, 1, 2))
    low, high = first["intervals"]["m"]
    assert first == again
    assert first["intervals"] != other["intervals"]
    assert low < first["measures"]["m"] < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)


def test_nothing_measured_and_not_a_number_are_named():
    with pytest.raises(InputError, match="no query was measured"):
        summarize(result_of(en=[]))
    with pytest.raises(InputError, match="not a number"):
        summarize(result_of(en=[float("nan")]))


# MIRACL


TOPICS = "topics.miracl-v1.0-sw-dev.tsv"
QRELS = "qrels.miracl-v1.0-sw-dev.tsv"
DOCS = "miracl-corpus-v1.0-sw/docs-0.jsonl.gz"


@pytest.fixture
def small_miracl(tmp_path):
    """Topics 1 and 2 are judged; 3 is not; 4 has nothing relevant. Passage p9 is relevant to 2 and not in the
    corpus.
    """
    write(tmp_path / "topics" / TOPICS, "1\tmoja\n2\tmbili\n3\ttatu\n4\tnne\n")
    write(tmp_path / "qrels" / QRELS, "1\tQ0\tp1\t1\n1\tQ0\tp2\t0\n2\tQ0\tp2\t1\n2\tQ0\tp9\t1\n4\tQ0\tp1\t0\n")
    write(
        tmp_path / DOCS,
        json_lines(*({"docid": f"p{i}", "title": "t", "text": str(i)} for i in (1, 2))),
    )
    write(tmp_path / DOCS.replace("-0", "-1"), json_lines({"docid": "p3", "title": "", "text": "3"}))
    return tmp_path


# Scores of topic 1: p1 .6, p2 .8, p3 0 -> p1 stands second.  Of topic 2: p1 0, p2 0, p3 1 -> p2 second by its id.
VECTORS = {"moja": [1, 0, 0], "mbili": [0, 0, 1], "t 1": [0.6, 0.8, 0], "t 2": [0.8, 0.6, 0], "3": [0, 0, 1]}


def test_miracl_is_measured_as_worked_by_pencil(small_miracl):
    encode = looked_up(VECTORS)
    result = measure_miracl(encode, encode, load_miracl(str(small_miracl)), small_miracl / "runs")
    rows = rows_of(result)
    assert list(rows) == ["1", "2"]
    assert rows["1"] == pytest.approx({"language": "sw", "nDCG@10": 1 / np.log2(3), "R@100": 1.0, "AP": 0.5})
    # Topic 2 has two relevant passages, one of them not in the corpus: it can reach no more than half.
    ideal = 1 + 1 / np.log2(3)
    assert rows["2"] == pytest.approx({"language": "sw", "nDCG@10": 1 / np.log2(3) / ideal, "R@100": 0.5, "AP": 0.25})
    assert result.counts == {
        "per_language": {
            "sw": {
                "topics": 2,
                "passages": 3,
                "unjudged topics": 1,
                "topics without relevant": 1,
                "relevant not in corpus": 1,
                "topics with relevant not in corpus": 1,
            }
        },
        "left_out": {"unjudged topics": 1, "topics without relevant": 1, "relevant not in corpus": 1},
    }
    assert (small_miracl / "runs" / "sw.trec").read_text().splitlines()[:2] == [
        "1 Q0 p2 1 0.800000012 hybrid-ir",
        "1 Q0 p1 2 0.600000024 hybrid-ir",
    ]


def test_miracl_s_corpus_may_stand_elsewhere_and_each_language_is_ranked_in_its_own(small_miracl, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("corpora")
    (small_miracl / "miracl-corpus-v1.0-sw").rename(elsewhere / "miracl-corpus-v1.0-sw")
    write(small_miracl / "topics" / TOPICS.replace("sw", "yo"), "1\tmoja\n")
    write(small_miracl / "qrels" / QRELS.replace("sw", "yo"), "1\tQ0\tp1\t1\n")
    write(elsewhere / DOCS.replace("sw", "yo"), json_lines({"docid": "p1", "title": "", "text": "3"}))
    encode = looked_up(VECTORS)
    tests = load_miracl(str(small_miracl), corpus_root=str(elsewhere))
    result = measure_miracl(encode, encode, tests, small_miracl / "runs")
    assert Counter(result.per_query.column("language").to_pylist()) == {"sw": 2, "yo": 1}
    assert result.per_query.to_pylist()[2]["AP"] == 1.0  # the only Yoruba passage
    assert list(load_miracl(str(small_miracl), corpus_root=str(elsewhere), languages=["yor"])) == ["yo"]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (f"topics/{TOPICS}", "1 moja\n", rf"/{TOPICS}:1 is not a topic .*'1 moja'"),
        (f"topics/{TOPICS}", "1\tmoja\n1\tmbili\n", rf"{TOPICS}:2 repeats topic '1'"),
        (
            f"topics/{TOPICS}",
            "2\tmbili\n",
            r"qrels.* judges 2 topics that topics.* lacks, the first is '1'; take topics",
        ),
        (f"qrels/{QRELS}", "1\tQ0\tp1\n", rf"{QRELS}:1 is not a judgement .*'1 Q0 p1'"),
        (f"qrels/{QRELS}", "1\tQ0\tp1\tyes\n", "is not a judgement"),
        (f"qrels/{QRELS}", "1\tQ0\tp2\t0\n", "no topic of MIRACL sw has a relevant passage"),
        (DOCS, '{"docid": "p1"\n', r"docs-0.jsonl.gz:1 is not a JSON object"),
        (DOCS, '{"docid": "p1"}\n', r"docs-0.jsonl.gz:1 has no docid and text: found docid"),
        (DOCS, '{"docid": "p1", "text": "\\ud800"}\n', r"docs-0.jsonl.gz:1 is not valid UTF-8"),
        (DOCS, json_lines({"docid": "p3", "text": "3"}), "passage 'p3' stands more than once"),
    ],
)
def test_a_miracl_file_that_is_wrong_is_named(small_miracl, file, text, message):
    write(small_miracl / file, text)
    encode = looked_up(VECTORS)
    with pytest.raises(InputError, match=message):
        measure_miracl(encode, encode, load_miracl(str(small_miracl)), small_miracl / "runs")


def test_an_empty_corpus_is_named(small_miracl):
    for i in "01":
        write(small_miracl / DOCS.replace("-0.", f"-{i}."), "")
    encode = looked_up(VECTORS)
    with pytest.raises(InputError, match=r"the corpus of sw is empty: .*docs-0.jsonl.gz"):
        measure_miracl(encode, encode, load_miracl(str(small_miracl)), small_miracl / "runs")


def test_a_miracl_language_or_file_that_is_not_there_is_named(small_miracl):
    with pytest.raises(InputError, match=r"no te in the topics of .*; its languages are: sw"):
        load_miracl(str(small_miracl), languages=["sw", "te"])
    with pytest.raises(InputError, match=r"no file \*topics.miracl-v1.0-\*-train.tsv"):
        load_miracl(str(small_miracl), split="train")
    with pytest.raises(InputError, match=r"no file \*miracl-corpus-v1.0-sw/docs-"):
        load_miracl(str(small_miracl), corpus_root=str(small_miracl / "topics"))
    (small_miracl / "qrels" / QRELS).rename(small_miracl / "qrels" / QRELS.replace("sw", "te"))
    with pytest.raises(InputError, match=r"no sw in the qrels of .*; its languages are: te"):
        load_miracl(str(small_miracl))


# Tatoeba


def test_the_nearest_neighbour_is_looked_for_in_the_other_language_both_ways():
    # a is nearest to A; b is nearer to A than to B: to_en 1, 0.  From English, A finds a and B finds b.
    encode = looked_up({"a": [1, 0], "b": [0.8, 0.6], "A": [1, 0], "B": [0.1, 0.9]})
    pairs = {"sw": ([Pair("sw/1", "a", "A"), Pair("sw/2", "b", "B")], 3)}
    result = measure_tatoeba(encode, encode, pairs)
    assert rows_of(result) == {
        "sw/1": {"language": "sw", "accuracy_to_en": 1.0, "accuracy_from_en": 1.0},
        "sw/2": {"language": "sw", "accuracy_to_en": 0.0, "accuracy_from_en": 1.0},
    }
    assert result.counts["left_out"] == {"pairs with an empty side": 3}


def test_tatoeba_queries_and_passages_take_the_encoder_of_their_role():
    asked = {"query": [], "passage": []}

    def encoder(role):
        return lambda texts, languages: asked[role].extend(texts) or np.eye(len(texts), dtype=np.float32)

    measure_tatoeba(encoder("query"), encoder("passage"), {"sw": ([Pair("sw/1", "a", "A")], 0)})
    assert asked == {"query": ["a", "A"], "passage": ["A", "a"]}


@pytest.mark.parametrize("n", [1, 5, 40])
def test_accuracy_agrees_with_plain_loops(n):
    generator = np.random.default_rng(n)
    a, b = (generator.integers(-1, 2, (n, 3)).astype(np.float32) for _ in range(2))  # with ties
    expected = []
    for i in range(n):
        scores = [float(np.dot(a[i], b[j])) for j in range(n)]
        best = [j for j in range(n) if scores[j] == max(scores)]  # any of them may come first
        expected.append((i in best) / len(best))
    assert nearest_is_own(a, b).tolist() == expected


def test_tatoeba_files_are_read_by_line_and_empty_sides_are_counted(tmp_path):
    write(tmp_path / "tatoeba.swh-eng.swh", "moja\n\ntatu\n")
    write(tmp_path / "tatoeba.swh-eng.eng", "one\ntwo\nthree\n")
    assert load_tatoeba(str(tmp_path)) == {"sw": ([Pair("sw/1", "moja", "one"), Pair("sw/3", "tatu", "three")], 1)}
    with pytest.raises(InputError, match=r"no te in .*; its languages are: sw"):
        load_tatoeba(str(tmp_path), ["te"])
    write(tmp_path / "tatoeba.swh-eng.eng", "one\n")
    with pytest.raises(InputError, match=r"tatoeba.swh-eng.swh has 3 lines, .*tatoeba.swh-eng.eng has 1"):
        load_tatoeba(str(tmp_path))
    (tmp_path / "tatoeba.swh-eng.eng").unlink()
    with pytest.raises(InputError, match=r"no file .*tatoeba.swh-eng.eng"):
        load_tatoeba(str(tmp_path))
    for side in ("swh", "eng"):
        write(tmp_path / f"tatoeba.swh-eng.{side}", "")
    with pytest.raises(InputError, match="has no sentence with a translation"):
        load_tatoeba(str(tmp_path))


# XCOPA


def test_the_choice_nearer_to_the_premise_is_the_answer_and_a_tie_is_half_right():
    # Scores of the choices: .6 and .8 -> the second; 0 and 1 -> the second; equal.
    encode = looked_up({"p": [1, 0], "x": [0.6, 0.8], "y": [0.8, 0.6], "n": [0, 1]})
    choices = [
        Choice("sw/0", "p", ("x", "y"), 1),
        Choice("sw/1", "p", ("n", "p"), 0),
        Choice("sw/2", "p", ("x", "x"), 0),
    ]
    result = measure_xcopa(encode, encode, {"sw": choices})
    assert result.per_query.column("accuracy").to_pylist() == [1.0, 0.0, 0.5]
    assert result.chance == {"accuracy": 0.5}
    assert summarize(result, resamples=0)["measures"] == {"accuracy": 0.5}


def test_choices_agree_with_plain_loops():
    generator = np.random.default_rng(4)
    scores, labels = generator.integers(0, 3, (50, 2)).astype(float), generator.integers(0, 2, 50)
    expected = []
    for (first, second), label in zip(scores.tolist(), labels.tolist(), strict=True):
        expected.append(0.5 if first == second else float((first, second)[label] == max(first, second)))
    assert chosen_right(scores, labels).tolist() == expected


GOOD = {"premise": "p", "choice1": "x", "choice2": "y", "question": "cause", "label": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{\n", r"test.sw.jsonl:1 is not a JSON object: '\{'"),
        (json_lines(GOOD, GOOD | {"label": 2}), r"test.sw.jsonl:2 is not a question of XCOPA .*found premise, choice1"),
        (json_lines(GOOD | {"choice2": " "}), r"test.sw.jsonl:1 is not a question of XCOPA"),
        ("", "test.sw.jsonl is empty"),
    ],
)
def test_an_xcopa_file_that_is_wrong_is_named(tmp_path, text, message):
    write(tmp_path / "test.sw.jsonl", text)
    with pytest.raises(InputError, match=message):
        load_xcopa(str(tmp_path))


def test_xcopa_files_are_found_by_split_and_language(tmp_path):
    write(tmp_path / "sw" / "val.sw.jsonl", json_lines(GOOD))
    assert load_xcopa(str(tmp_path), split="val") == {"sw": [Choice("sw/0", "p", ("x", "y"), 1)]}
    with pytest.raises(InputError, match=r"no file test.\*.jsonl"):
        load_xcopa(str(tmp_path))
    with pytest.raises(InputError, match=r"no te in .*; its languages are: sw"):
        load_xcopa(str(tmp_path), split="val", languages=["te"])


def test_a_clone_of_xcopa_s_repository_is_an_error_that_names_both_files(tmp_path):
    """github.com/cambridgeltl/xcopa (e2e9d7f) has English translations made by machine under the same names."""
    for folder in ("data", "data-gmt"):
        write(tmp_path / folder / "et" / "test.et.jsonl", json_lines(GOOD | {"premise": folder}))
    both = r"data-gmt/et/test.et.jsonl and .*data/et/test.et.jsonl are both of the language et; .*folder that has one"
    with pytest.raises(InputError, match=both):
        load_xcopa(str(tmp_path))
    assert load_xcopa(str(tmp_path / "data"))["et"][0].premise == "data"


@pytest.mark.parametrize("name", ["{split}-00000-of-00001.parquet", "{split}/0000.parquet"])
def test_xcopa_is_read_as_the_hub_has_it(tmp_path, name):
    """Folders, columns and types of huggingface.co/datasets/cambridgeltl/xcopa (042f789), and of its conversion."""
    for folder, premise in {"et": "eesti", "translation-et": "english", "qu": "runasimi"}.items():
        for split in ("validation", "test"):
            path = tmp_path / folder / name.format(split=split)
            path.parent.mkdir(parents=True, exist_ok=True)
            row = {**GOOD, "premise": f"{premise} {split}", "idx": 0, "changed": False}
            table = pa.Table.from_pylist([row])
            pq.write_table(table.set_column(4, "label", table["label"].cast(pa.int32())), path)
    assert load_xcopa(str(tmp_path)) == {
        "et": [Choice("et/0", "eesti test", ("x", "y"), 1)],
        "qu": [Choice("qu/0", "runasimi test", ("x", "y"), 1)],
    }
    assert load_xcopa(str(tmp_path), split="val", languages=["et"])["et"][0].premise == "eesti validation"


def test_files_whose_language_nobody_knows_are_counted_and_named(small_miracl, tmp_path):
    """`qqq` and `orv` are codes that CLDR has no language for: their files are not measured, and not passed over."""
    write(tmp_path / TOPICS.replace("-sw-", "-qqq-"), "1\tmoja\n")
    for name in ("swh", "orv", "tzl"):
        write(tmp_path / "tatoeba" / f"tatoeba.{name}-eng.{name}", "moja\n")
        write(tmp_path / "tatoeba" / f"tatoeba.{name}-eng.eng", "one\n")
    for name in ("sw", "qqq"):
        write(tmp_path / "xcopa" / f"test.{name}.jsonl", json_lines(GOOD))
    unread = {
        "miracl": {"files not read, as no known language has its tag: topics.miracl-v1.0-qqq-dev.tsv (qqq)": 1},
        "tatoeba": {
            "files not read, as no known language has its tag: tatoeba.orv-eng.orv (orv), tatoeba.tzl-eng.tzl (tzl)": 2
        },
        "xcopa": {"files not read, as no known language has its tag: test.qqq.jsonl (qqq)": 1},
    }

    def encode(texts, languages):
        return np.eye(3, dtype=np.float32)[[len(text) % 3 for text in texts]]

    folders = {"miracl": small_miracl, "tatoeba": tmp_path / "tatoeba", "xcopa": tmp_path / "xcopa"}
    for name, folder in folders.items():
        counts = load_task(name, str(folder)).measure(encode, encode, tmp_path / "runs").counts
        assert list(counts["per_language"]) == ["sw"]
        found = {key: n for key, n in counts["left_out"].items() if key.startswith("files not read")}
        assert found == unread[name]
        # Who names the languages has not asked for the others.
        counts = load_task(name, str(folder), languages=["sw"]).measure(encode, encode, tmp_path / "runs").counts
        assert not [key for key in counts["left_out"] if key.startswith("files not read")]


# Mewsli-X


def article(language, text, *mentions, spans=()):
    """`mentions` are (example_id, the mentioned text, entity_id)."""
    return {
        "context": {
            "document_id": "d",
            "language": language,
            "text": text,
            "sentence_spans": [{"start": start, "end": end} for start, end in spans],
        },
        "mentions": [
            {
                "example_id": example_id,
                "entity_id": entity_id,
                "mention_span": {"start": text.index(said), "end": text.index(said) + len(said), "text": said},
            }
            for example_id, said, entity_id in mentions
        ],
    }


def entity(entity_id, description, language="en", title=""):
    return {
        "entity_id": entity_id,
        "title": title,
        "description": description,
        "description_language": language,
        "description_url": "",
        "sentence_spans": [],
    }


@pytest.fixture
def small_mewsli(tmp_path):
    """Names and keys are those of google-research/google-research, dense_representations_for_entity_retrieval/mel:
    mewsli-x.md ("Files & Format") and mewsli_x/schema.py, where spans are {"start", "end"}; seen in November 2026."""
    write(
        tmp_path / "wikinews_mentions-test.jsonl",
        json_lines(
            article("tr", "Bir. Ankara iki.", ("m1", "Ankara", "Q1"), spans=[(0, 4), (5, 16)]),
            article("de", "Bonn und Ulm.", ("m2", "Bonn", "Q2"), ("m3", "Ulm", "Q9"), spans=[(0, 13)]),
        ),
    )
    write(
        tmp_path / "candidate_set_entities.jsonl",
        json_lines(entity("Q1", "capital", title="Ankara"), entity("Q2", "ville", "fr"), entity("Q3", "other")),
    )
    return tmp_path


def test_a_mention_is_asked_by_its_sentence_with_the_mention_in_braces(small_mewsli):
    assert load_mewsli(str(small_mewsli)) == [
        Mention("m2", "de", "{Bonn} und Ulm.", "Q2"),
        Mention("m3", "de", "Bonn und {Ulm}.", "Q9"),
        Mention("m1", "tr", "{Ankara} iki.", "Q1"),
    ]


def test_one_pool_of_entities_serves_all_languages(small_mewsli):
    encode = looked_up(
        {
            "{Bonn} und Ulm.": [1, 0],
            "Bonn und {Ulm}.": [1, 0],
            "{Ankara} iki.": [0, 1],
            "Ankara capital": [0.9, 0.2],
            "ville": [0.1, 0.1],
            "other": [0.2, 0.9],
        }
    )
    mentions, languages = load_mewsli(str(small_mewsli)), []

    def encode_passage(texts, of):
        languages.extend(of)
        return encode(texts, of)

    result = measure_mewsli(encode, encode_passage, mentions, str(small_mewsli), small_mewsli / "runs")
    assert languages == ["en", "fr", "en"], "an encoder may have a prompt in some of them"
    # m2 ranks Q1 (.9), Q3 (.2), Q2 (.1): 1/3.  m3's entity is no candidate: 0.  m1 ranks Q3, Q1: 1/2.
    assert {q: row["AP@20"] for q, row in rows_of(result).items()} == pytest.approx({"m2": 1 / 3, "m3": 0, "m1": 0.5})
    assert result.counts["candidates"] == 3
    assert result.counts["left_out"] == {"entity not a candidate": 1}
    assert summarize(result, resamples=0)["measures"]["AP@20"] == pytest.approx((1 / 6 + 1 / 2) / 2)
    assert sorted(path.name for path in (small_mewsli / "runs").iterdir()) == ["de.trec", "tr.trec"]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("wikinews_mentions-test.jsonl", "", "no mention in"),
        ("wikinews_mentions-test.jsonl", '{"contextual_mention": {}}\n', r"test.jsonl:1 is not an article of Mewsli-X"),
        ("wikinews_mentions-test.jsonl", "[]\n", r"test.jsonl:1 is not a JSON object"),
        ("candidate_set_entities.jsonl", "", "candidate_set_entities.jsonl is empty"),
        (
            "candidate_set_entities.jsonl",
            '{"id": "Q1"}\n',
            r"entities.jsonl:1 is not an entity of Mewsli-X .*: found id",
        ),
    ],
)
def test_a_mewsli_file_that_is_wrong_is_named(small_mewsli, file, text, message):
    write(small_mewsli / file, text)

    def encode(texts, languages):
        return np.ones((len(texts), 2), np.float32)

    with pytest.raises(InputError, match=message):
        measure_mewsli(encode, encode, load_mewsli(str(small_mewsli)), str(small_mewsli), small_mewsli / "runs")


def test_mewsli_without_text_language_or_split_is_named(small_mewsli):
    with pytest.raises(InputError, match=r"no te in .*; its languages are: de tr"):
        load_mewsli(str(small_mewsli), languages=["te"])
    with pytest.raises(InputError, match=r"no file .*wikinews_mentions-dev.jsonl"):
        load_mewsli(str(small_mewsli), split="dev")
    write(small_mewsli / "wikinews_mentions_no_text-dev.jsonl", "")
    with pytest.raises(InputError, match=r"has only wikinews_mentions_no_text-dev.jsonl; get-mewsli-x.sh restores"):
        load_mewsli(str(small_mewsli), split="dev")
    moved = article("de", "Bonn.", ("m", "Bonn", "Q1"))
    moved["context"]["text"] = ""
    write(small_mewsli / "wikinews_mentions-dev.jsonl", json_lines(moved))
    with pytest.raises(InputError, match=r"mention m is not at 0:4 of the text; run get-mewsli-x.sh"):
        load_mewsli(str(small_mewsli), split="dev")


# With an encoder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(make_preset(tmp_path_factory.mktemp("encoder")))


@pytest.fixture(scope="module")
def encoder(checkpoint):
    return load_encoder(checkpoint)


def evaluate(encoder, name, out, **options):
    test = load_test(name, **options)
    experiment = load_experiment(None, ["evaluate.precision=fp32", "evaluate.bootstrap_rounds=50"])
    return run_evaluation(encoder, "a/checkpoint", test, out, experiment)


def check_files(out, summary, *, runs=()):
    """The files hold what was returned, per-query values give the means, and the page loads nothing from elsewhere."""
    written = json.loads((out / "metrics.json").read_text())
    assert written == summary
    table = pq.read_table(out / "per_query.parquet")
    assert table.column_names == ["query_id", "language", *summary["measures"]]
    frame = table.to_pandas().drop(columns="query_id").groupby("language").mean()
    for measure, mean in summary["measures"].items():
        assert frame[measure].mean() == pytest.approx(mean)
        low, high = summary["intervals"][measure]
        assert low <= mean <= high
    assert sorted(p.name for p in (out / "runs").glob("*")) == sorted(f"{language}.trec" for language in runs)
    html = (out / "report.html").read_text()
    assert not re.search(r"<(script|link|iframe|img|object)\b|@import", html)
    assert all(target.startswith("#") for target in re.findall(r'(?:src|href)="([^"]*)"', html))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    for name in (*summary["measures"], *summary["per_language"]):
        assert f">{name}<" in html
    assert "#0102" not in html
    return html


def test_an_evaluation_s_page_says_what_was_left_out_and_repeats(small_miracl, encoder):
    first = evaluate(encoder, "miracl", small_miracl / "a", path=str(small_miracl))
    evaluate(encoder, "miracl", small_miracl / "b", path=str(small_miracl))
    html = " ".join(check_files(small_miracl / "a", first, runs=["sw"]).split())
    assert "Left out or missing: 1 unjudged topics; 1 topics without relevant; 1 relevant not in corpus." in html
    for name in ("report.html", "per_query.parquet", "runs/sw.trec"):
        assert (small_miracl / "a" / name).read_bytes() == (small_miracl / "b" / name).read_bytes()


def test_an_unknown_task_is_named():
    with pytest.raises(InputError, match="unknown task 'bucc'; there are miracl, tatoeba, mewsli-x, xcopa"):
        load_task("bucc", "x")


def run_cli(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["hybrid-ir", "evaluate", *map(str, arguments)])
    try:
        cli.main()
        code = 0
    except SystemExit as left:
        code = left.code
    return code, *capsys.readouterr()


def test_the_command_prints_the_table_of_a_task(tmp_path, checkpoint, monkeypatch, capsys):
    write(tmp_path / "test.sw.jsonl", json_lines(GOOD, GOOD | {"premise": "What is the capital of France?"}))
    common = ("--checkpoint", checkpoint, "--collection", "xcopa", "--out", tmp_path / "out", "--path")
    code, out, _ = run_cli(monkeypatch, capsys, *common, tmp_path)
    assert not code
    assert out.startswith(f"measures written to {tmp_path / 'out'}")
    lines = out[out.index("\nxcopa") :].split("\n")[1:-1]
    assert [line.split()[0] for line in lines] == ["xcopa", "accuracy", "sw", "mean", "95%", "chance"]
    assert lines[-1].split() == ["chance", "0.500"]
    assert run_cli(monkeypatch, capsys, *common, tmp_path / "nowhere")[0] == 2
    assert run_cli(monkeypatch, capsys, *common, tmp_path, "--languages", "te")[2].startswith("error: no te in")


def test_the_command_names_every_collection_there_is(tmp_path, monkeypatch, capsys):
    arguments = ("--checkpoint", "x", "--path", tmp_path, "--out", tmp_path / "out", "--collection", "bucc")
    code, _, err = run_cli(monkeypatch, capsys, *arguments)
    assert code == 2
    assert err == (
        "error: unknown collection 'bucc'; there are store, xquad-r, mlqa-r, miracl, tatoeba, mewsli-x, xcopa, "
        "belebele, mldr, neuclir, mkqa, xpqa, beir, trec, judged\n"
    )


def test_the_command_measures_miracl_with_a_corpus_elsewhere(small_miracl, checkpoint, monkeypatch, capsys):
    (small_miracl / "miracl-corpus-v1.0-sw").rename(small_miracl / "qrels" / "miracl-corpus-v1.0-sw")
    arguments = ("--checkpoint", checkpoint, "--collection", "miracl", "--path", small_miracl, "--languages", "sw")
    out = small_miracl / "out"
    code, said, _ = run_cli(monkeypatch, capsys, *arguments, "--corpus", small_miracl / "qrels", "--out", out)
    assert not code
    assert "left out or missing: 1 unjudged topics, 1 topics without relevant, 1 relevant not in corpus" in said
    assert (out / "runs" / "sw.trec").is_file()


# The real files


@needs_data
def test_real_miracl_topics_and_judgements_rank_a_corpus_of_judged_passages(tmp_path, encoder):
    """The corpora are not here, so one is made: half of the passages that are judged, in upstream's format."""
    missing = {}
    for code in ("sw", "yo"):
        lines = (DATA / f"miracl/qrels.miracl-v1.0-{code}-dev.tsv").read_text().splitlines()
        judged = {fields[2]: fields[3] for fields in map(str.split, lines)}
        kept = sorted(judged)[::2]
        relevant = {fields[2] for fields in map(str.split, lines) if fields[3] == "1"}
        missing[code] = len(relevant - set(kept))
        records = ({"docid": d, "title": d.partition("#")[0], "text": f"habari {d}"} for d in kept[:400])
        missing[code] = len(relevant - set(kept[:400]))
        write(tmp_path / f"miracl-corpus-v1.0-{code}/docs-0.jsonl.gz", json_lines(*records))
    options = {"path": str(DATA / "miracl"), "corpus": str(tmp_path), "languages": ["sw", "yo"]}
    summary = evaluate(encoder, "miracl", tmp_path / "out", **options)
    check_files(tmp_path / "out", summary, runs=["sw", "yo"])
    counts = summary["counts"]["per_language"]
    assert {code: row["topics"] for code, row in counts.items()} == {"sw": 482, "yo": 119}
    assert {code: row["relevant not in corpus"] for code, row in counts.items()} == missing
    assert summary["counts"]["left_out"]["unjudged topics"] == 0
    run_lines = (tmp_path / "out/runs/yo.trec").read_text().splitlines()
    assert set(Counter(line.split()[0] for line in run_lines).values()) == {400}


@needs_data
def test_real_tatoeba_is_28_languages_of_up_to_a_thousand_pairs():
    pairs = load_tatoeba(str(DATA / "tatoeba"))
    assert len(pairs) == len([*(DATA / "tatoeba").glob("*.eng")])
    assert all(0 < len(kept) <= 1000 and not left_out for kept, left_out in pairs.values())


@needs_data
def test_real_tatoeba_is_measured(tmp_path, encoder):
    summary = evaluate(encoder, "tatoeba", tmp_path / "out", path=str(DATA / "tatoeba"), languages=["am", "sw"])
    check_files(tmp_path / "out", summary)
    assert list(summary["per_language"]) == ["am", "sw"]
    assert summary["counts"]["per_language"]["sw"]["pairs"] == len(
        (DATA / "tatoeba/tatoeba.swh-eng.swh").read_text().splitlines()
    )


@needs_data
def test_real_xcopa_is_eleven_languages_of_500_questions():
    tests = load_xcopa(str(DATA / "xcopa"))
    assert {code: len(choices) for code, choices in tests.items()} == dict.fromkeys(
        ["et", "ht", "id", "it", "qu", "sw", "ta", "th", "tr", "vi", "zh"], 500
    )


@needs_data
def test_real_xcopa_is_measured_and_a_random_encoder_is_near_chance(tmp_path, encoder):
    summary = evaluate(
        encoder, "xcopa", tmp_path / "out", path=str(DATA / "xcopa"), split="val", languages=["et", "sw"]
    )
    html = check_files(tmp_path / "out", summary)
    assert summary["chance"] == {"accuracy": 0.5}
    assert ">chance<" in html
    assert 0.35 < summary["measures"]["accuracy"] < 0.65
