"""Mining in a corpus of the user's own, with a reranker, by BM25 and on Ray, against pencil work.

As in test_mining, the last word of a text is an angle, and its vector points there: a question at 0 degrees gives an
answer at 10 degrees .985, of which 95 % are .936, and passages at 20, 40 and 60 degrees .940, .766 and .5.
"""

from __future__ import annotations

import json
import pickle
import re
import sys
import tempfile
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import TEXTS, make_cross_encoder
from conftest import write_store
from test_mining import counts_of, encode, group, negatives_of
from test_several_passages import as_format_1

from hybrid_ir.cli import app as cli
from hybrid_ir.cli.stores.negatives import _load_encoder, _load_scores
from hybrid_ir.config import Index
from hybrid_ir.config.loading import load_experiment
from hybrid_ir.data.store import open_store
from hybrid_ir.encoders.presets import create_encoder
from hybrid_ir.mining import job
from hybrid_ir.mining.by_words import CountWords
from hybrid_ir.mining.job import CorpusFiles, LoadedWhereItRuns, mine_negatives
from hybrid_ir.mining.reranked import Asked, Reranking, refuse_answers
from hybrid_ir.mining.rules import RerankerRule, Rules
from hybrid_ir.types import Group, InputError, Passage

TRAIN = Path(__file__).parents[1] / "docs" / "train.md"
BOTH = [group("a", en=(0, 10), de=(0, 10)), group("b", en=(180, 60), de=(180, 60))]


def passage(doc_id, language, angle, name="corpus", **metadata) -> dict:
    return {"doc_id": doc_id, "text": f"{name} {language} {angle}", "language": language, "metadata": metadata}


def write_corpus(path, *records) -> str:
    lines = [record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def mined(tmp_path, groups, records, rules=None, *, group_by=None, encode=encode, **more) -> dict:
    """Negatives of the group a, by language."""
    tmp_path.mkdir(exist_ok=True, parents=True)
    write_store(tmp_path / "old", groups, validation_fraction=0, test_fraction=0)
    corpus = CorpusFiles([write_corpus(tmp_path / "corpus.jsonl", *records)], group_by) if records else None
    old, new = open_store(str(tmp_path / "old")), str(tmp_path / "new")
    mine_negatives(old, new, encode, rules or Rules(), corpus=corpus, made={}, **more)
    return negatives_of(new, named=encode is not None)["a"]


def said_of(path, name) -> dict:
    return json.loads((path / "manifest.json").read_text())["mined"][name]


def test_a_passage_of_the_corpus_is_a_negative_in_its_language_alone(tmp_path):
    # The corpus has an English passage at 40 degrees, and none in German, whose best is b's at 60.
    assert mined(tmp_path, BOTH, [passage("c", "en", 40)]) == {"en": "c", "de": "b-de"}
    said = said_of(tmp_path / "new", "corpus")
    assert said["passages"] == {"de": 0, "en": 1}
    assert said["negatives"] == 2, "of a and of b"
    assert (said["left_out"], said["rejected"]) == ({}, {})


@pytest.mark.parametrize(
    ("answer", "group_by"),
    [
        ([passage("a-de", "de", 40)], None),  # the id of the group's own answer
        ([passage("a-en", "de", 40)], None),  # that of its English one
        ([{**passage("x", "de", 0), "text": "a en 10"}], None),  # its English text, filed under German
        # Of one set of translations, and one of them has the id of an answer.
        ([passage("a-en", "en", 10, set=1), passage("y", "de", 40, set=1)], "set"),
    ],
)  # fmt: skip
def test_what_of_the_corpus_answers_in_any_language_is_no_negative(tmp_path, answer, group_by):
    """Each would be the best German negative of a; what is left is the one at 50 degrees."""
    rules = Rules(below=1)
    found = mined(tmp_path, BOTH, [*answer, passage("d", "de", 50)], rules, group_by=group_by)
    assert found == {"en": "b-en", "de": "d"}


def test_a_store_of_format_1_is_mined_as_it_is(tmp_path):
    for name in ("new", "old"):
        write_store(tmp_path / name, BOTH, validation_fraction=0, test_fraction=0)
    as_format_1(tmp_path / "old")
    manifests = [
        mine_negatives(open_store(str(tmp_path / name)), str(tmp_path / f"{name}-mined"), encode, Rules(), made={})
        for name in ("new", "old")
    ]
    assert manifests[0]["content_hash"] == manifests[1]["content_hash"]
    assert manifests[1]["format"] == 2


def test_without_a_key_of_groups_a_translation_is_taken_for_a_wrong_answer(tmp_path):
    records = [passage("a-en", "en", 10, set=1), passage("y", "de", 40, set=1)]
    assert mined(tmp_path, BOTH, records)["de"] == "y"


def test_what_stands_in_store_and_corpus_is_one_passage(tmp_path):
    records = [{"doc_id": "other", "text": "b en 60", "language": "en"}, passage("b-en", "en", 60, "again")]
    assert mined(tmp_path, BOTH, records, Rules(negatives=3))["en"] == "b-en"


def test_what_the_store_holds_out_and_other_languages_are_left_out_and_counted(tmp_path):
    many = [group(f"g{n}", en=(n, n)) for n in range(40)]
    write_store(tmp_path / "old", many, validation_fraction=0.2, test_fraction=0.2)
    store = open_store(str(tmp_path / "old"))
    held_out = store.collection("test").candidates[0]
    records = [
        {"doc_id": "x", "text": held_out.text, "language": "en"},
        {"doc_id": held_out.doc_id.partition(":")[2], "text": "else 5", "language": "en"},
        passage("f", "fr", 3),
        passage("e", "en", 300),
    ]
    corpus = CorpusFiles([write_corpus(tmp_path / "corpus.jsonl", *records)])
    mine_negatives(store, str(tmp_path / "new"), encode, Rules(), corpus=corpus, made={})
    said = said_of(tmp_path / "new", "corpus")
    assert said["passages"] == {"en": 1}
    assert said["left_out"] == {"held out by the store": 2, "in a language that no group has": 1}


def test_another_store_is_a_corpus_and_its_answers_have_the_ids_that_they_have_there(tmp_path):
    write_store(
        tmp_path / "more", [group("a", en=(0, 12)), group("z", en=(0, 40))], validation_fraction=0, test_fraction=0
    )
    write_store(tmp_path / "old", BOTH, validation_fraction=0, test_fraction=0)
    corpus = CorpusFiles([str(tmp_path / "more")])
    old = open_store(str(tmp_path / "old"))
    mine_negatives(old, str(tmp_path / "new"), encode, Rules(below=1), corpus=corpus, made={})
    # The other store's a-en is an answer of a, though its text is another one.
    assert negatives_of(tmp_path / "new")["a"] == {"en": "z-en", "de": "b-de"}


def test_records_that_are_no_passages_are_counted_and_written_down(tmp_path):
    bad = [passage("c", "en", 5), passage("u", "klingon", 5), {"doc_id": "n", "language": "en"}, "{"]
    mined(tmp_path, BOTH, [passage("c", "en", 40), *bad])
    rejected = said_of(tmp_path / "new", "corpus")["rejected"]
    assert rejected.pop("duplicate doc_id") == 1
    assert sorted(rejected.values()) == [1, 1, 1]
    assert any("klingon" in reason for reason in rejected)
    lines = (tmp_path / "new" / "rejected_of_corpus.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["reason"] == "duplicate doc_id"
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("records", "group_by", "message"),
    [
        ([], None, "can be used (it holds no record)"),
        ([passage("u", "klingon", 5)], None, "can be used (1 x "),
        ([passage("c", "en", 5, topic="x")], "group", "has 'group' in its metadata"),
    ],
)
def test_a_corpus_that_cannot_be_used_is_refused_and_nothing_is_left(tmp_path, records, group_by, message):
    write_store(tmp_path / "old", BOTH, validation_fraction=0, test_fraction=0)
    corpus = CorpusFiles([write_corpus(tmp_path / "corpus.jsonl", *records)], group_by)
    with pytest.raises(InputError, match=re.escape(message)):
        mine_negatives(
            open_store(str(tmp_path / "old")), str(tmp_path / "new"), encode, Rules(), corpus=corpus, made={}
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", "old"]


def by_table(table):
    """Scores by the last words of question and passage: the log-odds of what the table says, and .5 of all else."""
    return lambda pairs: np.array([np.log(p / (1 - p)) for p in (table.get(x.split()[-1], 0.5) for _, x in pairs)])


ASKED = group("a", en=(0, 10))
OTHERS = [passage("b", "en", 20), passage("c", "en", 40), passage("d", "en", 60)]


@pytest.mark.parametrize(
    ("table", "rule", "negative", "asked"),
    [
        # 95 % of .8 are .76: the passage at 40 degrees is refused, the one at 60 is not. The one at 20 is too near by
        # the encoder, and never asked about.
        ({"10": 0.8, "40": 0.77, "60": 0.75}, RerankerRule(), "d", {"pairs": 3, "refused": 1}),
        ({"10": 0.8, "40": 0.75, "60": 0.99}, RerankerRule(), "c", {"pairs": 2, "refused": 0}),
        ({"10": 0.8, "40": 0.75, "60": 0.69}, RerankerRule(margin=0.1), "d", {"pairs": 3, "refused": 1}),
        ({"10": 0.8, "40": 0.79, "60": 0.9}, RerankerRule(below=1), "c", {"pairs": 2, "refused": 0}),
    ],
)
def test_what_the_reranker_takes_for_an_answer_is_no_negative(tmp_path, table, rule, negative, asked):
    reranking = Reranking(by_table(table), rule, {"name": "table"})
    assert mined(tmp_path, [ASKED], OTHERS, reranking=reranking) == {"en": negative}
    said = said_of(tmp_path / "new", "reranker")
    assert (said["name"], said["below"], said["margin"]) == ("table", rule.below, rule.margin)
    assert {name: said[name] for name in asked} == asked


def test_where_the_reranker_refuses_all_the_group_has_none_and_the_table_says_why(tmp_path):
    write_store(tmp_path / "old", [ASKED, group("f", en=(90, 90))], validation_fraction=0, test_fraction=0)
    corpus = CorpusFiles([write_corpus(tmp_path / "corpus.jsonl", *OTHERS)])
    # The answer of f scores .99, and what stands at 60 degrees .9: it is a negative of f, and none of a.
    table = {"10": 0.8, "20": 0.9, "40": 0.9, "60": 0.9, "90": 0.99}
    more: Any = {"reranking": Reranking(by_table(table), RerankerRule(), {})}
    old, new = open_store(str(tmp_path / "old")), str(tmp_path / "new")
    mine_negatives(old, new, encode, Rules(), corpus=corpus, made={}, **more)
    assert negatives_of(new) == {"f": {"en": "d"}}
    assert counts_of(tmp_path / "new")["en"]["reranker"] == 1
    with pytest.raises(InputError, match=r"too near it by --reranker: 1.*raise --reranker-below"):
        mined(tmp_path / "none", [ASKED], OTHERS, **more)


def test_asking_about_the_best_first_gives_what_asking_about_all_gives():
    """60 rows of up to 20 passages, two questions and two answers each, against a plain loop over all of them."""
    random = np.random.default_rng(0)
    worth = random.uniform(0.05, 0.95, 1000)
    ranked = np.full((60, 20), -1)
    for row in ranked:
        count = random.integers(0, 21)
        row[:count] = random.choice(1000, count, replace=False)
    questions = [[f"q{g} 1", f"q{g} -1"][: 1 + g % 2] for g in range(60)]
    answers = [[str(n) for n in random.choice(1000, 2, replace=False)] for _ in range(60)]

    def chance(question, text):
        return worth[int(text)] ** (1 if question.endswith(" 1") else 2)

    def scores(pairs):
        return np.array([np.log(p / (1 - p)) for p in (chance(*pair) for pair in pairs)])

    for most in (1, 3, 20):
        rule = RerankerRule(below=0.9, margin=0.02)
        found, asked = refuse_answers(ranked, most, questions, answers, str, Reranking(scores, rule, {}))
        for g, row in enumerate(ranked):
            limits = [min(chance(q, a) for a in answers[g]) for q in questions[g]]
            kept = [
                n for n in row[row >= 0].tolist()
                if all(chance(q, str(n)) < 0.9 * x and chance(q, str(n)) <= x - 0.02
                       for q, x in zip(questions[g], limits, strict=True))
            ]  # fmt: skip
            assert found[g].tolist() == (kept + [-1] * 20)[:most]
    assert refuse_answers(ranked, 20, questions, answers, str, Reranking(scores, rule, {}))[1] == asked
    assert asked.pairs > Asked(0, 0).pairs


def test_scores_that_are_no_numbers_are_refused(tmp_path):
    with pytest.raises(InputError, match="hold NaN or infinity; the reranker is damaged"):
        mined(tmp_path, BOTH, [], reranking=Reranking(lambda pairs: np.full(len(pairs), np.nan), RerankerRule(), {}))


def rhine(name, question, answer, **german) -> Group:
    queries, passages = {"en": question}, {"en": (Passage(f"{name}-en", answer),)}
    for half, text in german.items():
        if half == "q":
            queries["de"] = text
        else:
            passages["de"] = (Passage(f"{name}-de", text),)
    return Group(name, name, queries, passages)


RIVERS = [
    rhine("a", "How long is the Rhine", "It has 1233 kilometres", q="Wie lang ist der Rhein",
          p="Er hat 1233 Kilometer"),
    rhine("b", "Where does the Rhine rise", "The Rhine rises in the Alps", q="Wo entspringt der Rhein",
          p="Der Rhein entspringt in den Alpen"),
    rhine("c", "Where is the long bridge", "It is in Lucerne", q="Wo ist die lange Bruecke", p="Sie ist in Luzern"),
]  # fmt: skip


def test_bm25_finds_the_passage_that_shares_most_words_in_the_questions_language(tmp_path):
    """b shares `the Rhine`, c `is`; the corpus shares `How long is the`, but its German twin no more than `der`."""
    found = mined(tmp_path, RIVERS, [], Rules(below=None), encode=None)
    assert found == {"en": "b-en", "de": "b-de"}
    corpus = [
        {"doc_id": "x", "text": "How long is the Danube", "language": "en"},
        {"doc_id": "y", "text": "How long is the Rhine", "language": "de"},
    ]
    found = mined(tmp_path / "corpus", RIVERS, corpus, Rules(below=None), encode=None)
    assert found == {"en": "x", "de": "b-de"}
    # No other passage has a word of b's question, nor of d's: nothing is found, whatever the ranks.
    alone = [*RIVERS, rhine("d", "Qui", "Quo")]
    mined(tmp_path / "alone", alone, [], Rules(below=None), encode=None)
    assert counts_of(tmp_path / "alone" / "new")["en"]["too few"] == 2


def test_a_bound_on_bm25_is_a_share_of_what_the_answer_scores(tmp_path):
    # a's answer shares no word with its question, so all that scores is nearer than it.
    write_store(tmp_path / "old", RIVERS[:2], validation_fraction=0, test_fraction=0)
    with pytest.raises(InputError, match="all too near the answer by --below"):
        mine_negatives(open_store(str(tmp_path / "old")), str(tmp_path / "new"), None, Rules(below=0.95), made={})


def test_bm25_of_other_languages_is_refused(tmp_path):
    for rules in (Rules("other"), Rules("any"), Rules(margin=0.1)):
        with pytest.raises(InputError, match="leave out --languages and --margin"):
            mined(tmp_path / rules.languages / str(rules.margin), RIVERS, [], rules, encode=None)


def test_bad_rules_of_a_reranker_are_refused():
    for rule in ({"below": 0}, {"below": 1.5}, {"margin": -0.1}, {"margin": 1}):
        with pytest.raises(InputError, match="--reranker-"):
            RerankerRule(**rule)


def run(monkeypatch, capsys, *words):
    """Exit code, and what it said."""
    monkeypatch.setattr(sys, "argv", ["hybrid-ir", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    out, err = capsys.readouterr()
    return left.value.code, " ".join((out + err).split())


def test_the_command_refuses_what_does_not_go_together(tmp_path, tiny_store, monkeypatch, capsys):
    create_encoder("tiny", ["a b c", "d e f"], tmp_path / "encoder", vocabulary=300, max_tokens=32, seed=0)
    out, store = ("--out", tmp_path / "new"), f"store={tiny_store.path}"
    (tmp_path / "empty.jsonl").touch()
    for words, said in (
        ((), "give --checkpoint NAME or --bm25"),
        (("--bm25", "--checkpoint", "x"), "give --checkpoint NAME or --bm25"),
        (("--bm25", "--languages", "any"), "leave out --languages and --margin"),
        (("--bm25", "--reranker", tmp_path / "encoder"), "is not a reranker: it has no head that scores a pair"),
        (("--bm25", "--reranker-margin", "0.2"), "name one with --reranker"),
        (("--bm25", "--reranker", "x", "--reranker-below", "1.5"), "--reranker-below must be above 0 and at most 1"),
        (("--bm25", "--group-by", "rhine"), "name one with --corpus"),
        (("--bm25", "--corpus", tmp_path / "none.jsonl"), "no passages at"),
        (("--bm25", "--corpus", tmp_path / "empty.jsonl"), "it holds no record"),
    ):
        code, found = run(monkeypatch, capsys, "mine", *words, *out, store)
        assert (code, said in found) == (2, True), found
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.jsonl", "encoder"]


def test_the_example_of_the_page_runs(tmp_path, monkeypatch, capsys):
    """On a store of two questions in German and English, and the corpus of the page."""
    page = TRAIN.read_text(encoding="utf-8").partition("## Hard negatives")[2].partition("\n## ")[0]
    (corpus,) = re.findall(r"^```json\n(.*?)^```", page, flags=re.M | re.S)
    (command,) = re.findall(r"^hybrid-ir (mine --bm25 .*?[^\\])$", page, flags=re.M | re.S)
    monkeypatch.chdir(tmp_path)
    Path("corpus.jsonl").write_text(corpus, encoding="utf-8")
    write_store("store/mine", RIVERS[:2], validation_fraction=0, test_fraction=0)
    code, said = run(monkeypatch, capsys, *command.replace("\\\n", " ").split())
    assert code == 0, said
    assert "2 passages of the corpus were ranked too" in said
    assert negatives_of("store/mined", named=False)["a"] == {"en": ["danube-1", "b-en"], "de": ["donau-1", "b-de"]}


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """60 groups in two languages, a corpus of 30 passages in each, an encoder, and a reranker that refuses half: what
    `mine(out, ...)` gives is the content hash of the new store and what its manifest says of the mining."""
    folder = tmp_path_factory.mktemp("real")
    words = sorted({word for text in TEXTS for word in text.split()})  # that the reranker's tokenizer knows

    def made_up(n: int, other: int, x: str) -> str:
        return f"{words[n % len(words)]} {words[other * n % len(words)]} {n} {x}"

    groups = [
        Group(
            f"g{n}",
            f"g{n}",
            {x: made_up(n, 3, x) for x in ("de", "en")},
            {x: (Passage(f"{x}/{n}", made_up(n, 5, x)),) for x in ("de", "en")},
        )
        for n in range(60)
    ]
    write_store(folder / "old", groups, validation_fraction=0, test_fraction=0)
    store = open_store(str(folder / "old"))
    create_encoder("tiny", [*store.texts()], folder / "encoder", vocabulary=400, max_tokens=32, seed=0)
    make_cross_encoder(folder / "reranker")
    texts = [(x, n) for x in ("de", "en") for n in range(30)]
    corpus = [{"doc_id": f"{x}-{n}", "text": made_up(n, 7, x), "language": x} for x, n in texts]
    files = CorpusFiles([write_corpus(folder / "corpus.jsonl", *corpus)])
    # As the command sends them: an actor knows the package, and no test.
    settings = load_experiment(None, ["evaluate.precision=fp32"])
    loaded = LoadedWhereItRuns(partial(_load_encoder, str(folder / "encoder"), settings, "cpu"))
    scores = LoadedWhereItRuns(partial(_load_scores, str(folder / "reranker"), "cpu"))
    reranking = Reranking(scores, RerankerRule(below=1), {})

    def mine(out, encode: Any = loaded, **more):
        manifest = mine_negatives(
            store, str(folder / out), encode, Rules(below=1, last=8), corpus=files, reranking=reranking, made={},
            block=20, **more,
        )  # fmt: skip
        return manifest["content_hash"], manifest["mined"]

    here = mine("here")
    assert here[1]["reranker"]["refused"] > 0
    assert here[1]["corpus"]["negatives"] > 0
    return mine, here


def test_units_may_run_elsewhere_and_in_any_order(real):
    """Two copies of each stage take turns, as two processes would, and begin with the last unit."""
    mine, here = real

    def run(stage, units):
        copies = [pickle.loads(pickle.dumps(stage)) for _ in range(2)]
        for n in reversed(range(units)):
            yield pickle.loads(pickle.dumps(copies[n % 2](n)))

    assert mine("elsewhere", workers=lambda: nullcontext(run)) == here
    words = mine("words", None)
    assert mine("words elsewhere", None, workers=lambda: nullcontext(run)) == words


def test_a_unit_may_be_done_again(tmp_path):
    """As where an actor died over it: Ray gives it to another one, which finds half a file."""

    def run(stage, units):
        for n in range(units):
            stage(n)
            if isinstance(stage, CountWords):
                folder = list(stage.scratch.values())[n].path.with_suffix(".postings")
                for path in folder.iterdir():
                    path.write_bytes(path.read_bytes()[:-9])
            yield stage(n)

    again: Any = {"encode": None, "workers": lambda: nullcontext(run)}
    assert mined(tmp_path, RIVERS, [], Rules(below=None), **again) == {"en": "b-en", "de": "b-de"}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux says which files are mapped")
@pytest.mark.parametrize("encoder", [encode, None])
def test_nothing_is_mapped_when_the_folder_of_vectors_is_deleted(tmp_path, encoder, monkeypatch):
    """NFS would keep the folder, which is in the new store."""
    seen = []

    class Watched(tempfile.TemporaryDirectory):
        def cleanup(self):
            if "hybrid-ir-mine-" in self.name:
                seen.append(self.name in Path("/proc/self/maps").read_text())
            super().cleanup()

    monkeypatch.setattr(job.tempfile, "TemporaryDirectory", Watched)
    mined(tmp_path, RIVERS if encoder is None else BOTH, [], Rules(below=None), encode=encoder)
    assert seen == [False]


def actors(count) -> Any:
    from hybrid_ir.mining.ray_units import run_on_actors

    return {"workers": lambda: nullcontext(partial(run_on_actors, Index(actors=count, cpus_per_actor=0.5)))}


@pytest.mark.slow
def test_an_actor_finds_what_this_process_finds(real, ray_cluster):
    mine, here = real
    assert mine("actor", **actors(1)) == here


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("count", [1, 2])
def test_any_number_of_actors_finds_what_this_process_finds(real, ray_cluster, count):
    mine, here = real
    words = mine(f"words {count}", None)
    assert mine(f"words on {count}", None, **actors(count)) == words
    assert mine(f"vectors on {count}", **actors(count)) == here


@pytest.mark.slow
@pytest.mark.long
def test_what_cannot_be_is_said_by_an_actor_as_here(real, ray_cluster):
    def overflowed(texts, *, role, languages):
        return np.full((len(texts), 2), np.nan, np.float32)

    with pytest.raises(InputError, match="NaN"):
        real[0]("broken", overflowed, **actors(1))
