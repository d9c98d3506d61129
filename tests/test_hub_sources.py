"""Readers of the hub's data sets, on small local folders of the upstream layout, and on MIRACL's real judgements."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from readers import DATA, needs_data, parted

from hybrid_ir.config.sources import MiraclSource, SquadShiftsSource, SquadSource
from hybrid_ir.data.find_files import pinned, resolve_files
from hybrid_ir.data.inputs import inputs_for
from hybrid_ir.data.prepare import prepare
from hybrid_ir.data.sources.miracl import read_miracl
from hybrid_ir.data.sources.mmarco import open_texts, read_mmarco
from hybrid_ir.data.sources.mr_tydi import read_mr_tydi
from hybrid_ir.data.sources.squadshifts import read_squadshifts
from hybrid_ir.types import Group, InputError, Passage


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def json_lines(*records) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def test_importing_the_readers_does_not_import_datasets():
    code = "import hybrid_ir.data.inputs, sys; sys.exit('datasets' in sys.modules or 'huggingface_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0


# Files


def test_a_star_crosses_folders_and_any_pattern_may_match(tmp_path):
    for name in ("a/b/x.tsv", "x.json", "y.json"):
        write(tmp_path / name, "")
    assert resolve_files(tmp_path, "*x.tsv", "x.*") == [tmp_path / "a/b/x.tsv", tmp_path / "x.json"]


def test_a_file_that_is_missing_is_named_with_what_was_found(tmp_path):
    write(tmp_path / "a.tsv", "")
    with pytest.raises(InputError, match=r"no file data/x\.tsv in .*; found a\.tsv; set the path of a copy"):
        resolve_files(tmp_path, "data/x.tsv")
    with pytest.raises(InputError, match=r"no folder .*nowhere; set the path of a local copy"):
        resolve_files(tmp_path / "nowhere", "x")


@pytest.mark.parametrize("name", ["hub:owner/no-such-set", "hub:owner/no-such-set@revision", "hub:not a name"])
def test_a_hub_that_cannot_be_reached_says_to_set_a_local_path(tmp_path, monkeypatch, name):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        InputError, match=r"cannot get x\.tsv of hub:.*; connect to the hub, or set the path of a local"
    ):
        resolve_files(name, "x.tsv")


def test_only_the_wanted_files_of_the_hub_are_downloaded(tmp_path, monkeypatch):
    asked = {}

    def snapshot_download(name, **options):
        asked.update(name=name, **options)
        return str(tmp_path)

    write(tmp_path / "amazon" / "test" / "0000.parquet", "")
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert resolve_files("hub:owner/name@refs/convert/parquet", "*amazon/*.parquet")
    assert asked == {
        "name": "owner/name",
        "repo_type": "dataset",
        "revision": "refs/convert/parquet",
        "allow_patterns": ["*amazon/*.parquet"],
    }


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub whose every branch is at the commit c0ffee, with the files of `tmp_path`/c0ffee."""
    asked = []

    def snapshot_download(name, *, repo_type, revision, allow_patterns):
        asked.append((name, revision, allow_patterns))
        return str(tmp_path / "c0ffee")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


def test_a_branch_of_the_hub_is_pinned_to_its_commit_which_the_store_records(hub, tmp_path):
    assert pinned("hub:owner/name@main") == "hub:owner/name@c0ffee"
    assert pinned("somewhere/else@main") == "somewhere/else@main"
    shifts, miracl = inputs_for(
        [SquadShiftsSource(kind="squadshifts", subsets=["nyt"]), MiraclSource(kind="miracl", languages=["sw"])]
    )
    assert shifts.hub == ("hub:ludwigschmidt/squadshifts@c0ffee",)
    assert miracl.hub == ("hub:miracl/miracl-corpus@c0ffee", "hub:miracl/miracl@c0ffee")
    write(tmp_path / "c0ffee" / "nyt_v1.0.json", squad_json("One", "Two"))
    hub.clear()
    manifest = prepare([shifts], str(tmp_path / "s"), seed=0, validation_fraction=0, test_fraction=0, settings={})
    assert manifest["sources"]["squadshifts"]["hub"] == ["hub:ludwigschmidt/squadshifts@c0ffee"]
    assert {revision for _, revision, _ in hub} == {"c0ffee"}, "every file is of one commit"


def test_every_file_of_a_source_may_be_at_a_uri(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write(tmp_path / "en.json", squad_json("One"))
    write(tmp_path / "test.json", squad_json("Other"))
    uri = f"file://{tmp_path}"
    source = SquadSource(kind="squad", files={"en": f"{uri}/en.json"}, exclude=f"{uri}/test.json")
    groups, rejected = parted(inputs_for([source])[0].records())
    assert not groups
    assert len(rejected) == 2, "the test set has the same question ids"


def test_two_files_where_one_is_wanted_are_named(small_miracl):
    name = "topics.miracl-v1.0-sw-dev.tsv"
    write(small_miracl / "old" / name, "q1\tNini?\n")
    with pytest.raises(InputError, match=rf"topics/{name} and .*old/{name} are both"):
        list(read_miracl(small_miracl, ["sw"], "dev", small_miracl / "corpus"))


# mMARCO
# data/ of huggingface.co/datasets/unicamp-dl/mmarco (4618200): triples.train.ids.small.tsv, and below google/ the
# collections and queries/train of fourteen languages.


@pytest.fixture
def small_mmarco(tmp_path):
    """Queries 1 and 2 share passage 10, so they are one document; French lacks passage 12 and German query 3."""
    write(
        tmp_path / "data/triples.train.ids.small.tsv",
        "1\t10\t11\n2\t10\t12\n3\t11\t10\n2\t13\t11\nx\t1\t2\n9\t13\t10\n",
    )
    google = tmp_path / "data/google"
    write(google / "queries/train/french_queries.train.tsv", "1\tun\n2\tdeux\n3\ttrois\n")
    write(google / "queries/train/german_queries.train.tsv", "2\tzwei\n1\teins\n")
    write(google / "collections/french_collection.tsv", '10\tle "dix\n11\tonze\r\n13\ttreize\n')
    write(google / "collections/german_collection.tsv", "10\tzehn\n11\tnull\n12\tzwölf\n13\tdreizehn\n")
    return tmp_path


def test_a_triple_is_a_group_with_its_negative_in_every_language(small_mmarco):
    groups, _ = parted(read_mmarco(small_mmarco, ["fr", "de"]))
    assert groups[0] == Group(
        "1/10/11",
        "10",
        {"de": "eins", "fr": "un"},
        {"de": (Passage("de/10", "zehn"),), "fr": (Passage("fr/10", 'le "dix'),)},
        {"de": (Passage("de/11", "null"),), "fr": (Passage("fr/11", "onze"),)},
    )


def test_a_text_that_a_language_lacks_leaves_only_it_out(small_mmarco):
    groups, rejected = parted(read_mmarco(small_mmarco, ["fr", "de"]))
    assert [(g.group_id, list(g.queries), list(g.negatives)) for g in groups] == [
        ("1/10/11", ["de", "fr"], ["de", "fr"]),
        ("2/10/12", ["de", "fr"], ["de"]),
        ("3/11/10", ["fr"], ["fr"]),
        ("2/13/11", ["de", "fr"], ["de", "fr"]),
    ]
    assert [(r.where.split(":")[1], r.reason) for r in rejected] == [
        ("5", "not three ids"),
        ("3", "one language left out: no query"),
        ("3", "negative left out: its language has no good pair"),
        ("6", "no query"),
        ("6", "no query"),
    ]


def test_queries_and_passages_that_triples_connect_are_one_document(small_mmarco):
    groups, _ = parted(read_mmarco(small_mmarco, ["fr"]))
    document_of = {g.group_id: g.document for g in groups}
    assert document_of["1/10/11"] == document_of["2/10/12"] == document_of["2/13/11"] != document_of["3/11/10"]


def test_the_limit_counts_triples(small_mmarco):
    assert [g.group_id for g in read_mmarco(small_mmarco, ["fr"], limit=2)] == ["1/10/11", "2/10/12"]


def test_a_language_that_mmarco_lacks_is_named(small_mmarco):
    with pytest.raises(
        InputError, match=r"mMARCO has no el; its languages are: ar de en es fr hi id it ja nl pt ru vi zh"
    ):
        list(read_mmarco(small_mmarco, ["el"]))


@pytest.mark.parametrize("content", ["", "1\ta\tb\n", "one\ttext\n"])
def test_a_collection_of_another_layout_is_named(tmp_path, content):
    with pytest.raises(InputError, match=r"c\.tsv is not lines of an id, a tab and a text"):
        open_texts(write(tmp_path / "c.tsv", content))


def test_texts_are_found_by_id_whatever_the_order_of_the_file(tmp_path):
    texts_of = open_texts(write(tmp_path / "[c].tsv", b"7\tseven\n3\tthr\xff\n5\t\n"))
    assert texts_of([3, 9, 7, 5, 0, 3]) == ["thr\ufffd", None, "seven", "", None, "thr\ufffd"]


# MIRACL
# huggingface.co/datasets/miracl/miracl (miracl.py) has miracl-v1.0-{code}/{topics,qrels}/{topics,qrels}.miracl-v1.0-
# {code}-{train,dev}.tsv, and miracl/miracl-corpus has miracl-corpus-v1.0-{code}/docs-{n}.jsonl.gz.


@pytest.fixture
def small_miracl(tmp_path):
    """q1 finds articles A and B relevant, q2 B: one document. q3's passage is not in the corpus; q4 has none."""
    folder = tmp_path / "miracl-v1.0-sw"
    write(folder / "topics/topics.miracl-v1.0-sw-dev.tsv", 'q1\tNini "hii?\nq2\tNani?\nq3\tWapi?\nq4\tLini?\nbad\n')
    qrels = (
        "q1\tQ0\tB#0\t1\nq1\tQ0\tA#1\t1\nq1\tQ0\tC#0\t0\nq2\tQ0\tB#2\t1\nq3\tQ0\tZ#0\t1\nq4\tQ0\tC#0\t0\nq4 Q0 C#0 1\n"
    )
    write(folder / "qrels/qrels.miracl-v1.0-sw-dev.tsv", qrels)
    corpus = tmp_path / "corpus" / "miracl-corpus-v1.0-sw"
    a = {"docid": "A#1", "title": "A", "text": "alpha"}
    b = [{"docid": "B#0", "title": "B", "text": "beta"}, {"docid": "B#2", "title": "", "text": "bee"}]
    write(corpus / "docs-0.jsonl.gz", json_lines(a, *b) + "{\n")
    write(corpus / "docs-1.jsonl.gz", json_lines({"docid": "C#0", "title": "C", "text": "gamma"}))
    return tmp_path


def test_a_topic_has_all_its_relevant_and_irrelevant_passages_that_the_corpus_has(small_miracl):
    groups, rejected = parted(read_miracl(small_miracl, ["swh"], "dev", small_miracl / "corpus"))
    assert groups == [
        Group(
            "sw/q1",
            "sw/A",
            {"sw": 'Nini "hii?'},
            {"sw": (Passage("sw/A#1", "A alpha"), Passage("sw/B#0", "B beta"))},
            {"sw": (Passage("sw/C#0", "C gamma"),)},
        ),
        Group("sw/q2", "sw/A", {"sw": "Nani?"}, {"sw": (Passage("sw/B#2", "bee"),)}),
    ]
    assert [r.reason for r in rejected] == [
        "not a judgement: query_id, Q0, docid, 0 or 1",
        "not a JSON object",
        "its relevant passages are not in the corpus",
        "no passage is judged relevant",
        "not a topic: query_id, query",
    ]


def test_a_split_that_is_not_there_says_what_is(small_miracl):
    with pytest.raises(
        InputError, match=r"no file \*topics.miracl-v1.0-sw-train.tsv .*found .*topics.miracl-v1.0-sw-dev"
    ):
        list(read_miracl(small_miracl, ["sw"], "train", small_miracl / "corpus"))


@needs_data
def test_the_real_topics_and_judgements_of_miracl_meet_a_corpus_of_their_passages(tmp_path):
    languages = ["bn", "sw", "te", "yo"]
    for language in languages:
        lines = (DATA / "miracl" / f"qrels.miracl-v1.0-{language}-dev.tsv").read_text().splitlines()
        corpus = [
            {"docid": d, "title": "T", "text": f"text of {d}"} for d in sorted({line.split("\t")[2] for line in lines})
        ]
        write(tmp_path / f"miracl-corpus-v1.0-{language}" / "docs-0.jsonl.gz", json_lines(*corpus))
    groups, rejected = parted(read_miracl(DATA / "miracl", languages, "dev", tmp_path))
    assert not rejected
    counts = {language: sum(g.group_id.startswith(f"{language}/") for g in groups) for language in languages}
    assert counts == {"bn": 411, "sw": 482, "te": 828, "yo": 119}
    kenya = next(g for g in groups if g.group_id == "sw/6")
    assert kenya.queries == {"sw": "Bandari kubwa nchini Kenya iko wapi?"}
    relevant = ("32589#0", "93957#6")
    assert kenya.passages == {"sw": tuple(Passage(f"sw/{d}", f"T text of {d}") for d in relevant)}
    # No relevant article is in two documents.
    article_of = {}
    for g in groups:
        (passages,) = g.passages.values()
        assert all(article_of.setdefault(p.doc_id.split("#")[0], g.document) == g.document for p in passages)


# Mr. TyDi
# huggingface.co/datasets/castorini/mr-tydi (17329f6, mr-tydi.py): mrtydi-v1.1-{language}/{train,dev,test}.jsonl.gz,
# with query_id, query, positive_passages and negative_passages of docid, text and title.


@pytest.mark.parametrize(
    ("code", "name"), [("bn", "bengali"), ("ben", "bengali"), ("te", "telugu"), ("id", "indonesian")]
)
def test_a_language_of_mr_tydi_is_called_as_upstream_calls_it(tmp_path, code, name):
    line = {"query_id": "1", "query": "Q?", "positive_passages": [{"docid": "5#1", "title": "T", "text": "P."}]}
    write(tmp_path / f"mrtydi-v1.1-{name}" / "train.jsonl.gz", json_lines(line))
    assert len(list(read_mr_tydi(tmp_path, [code], "train"))) == 1


def test_a_language_that_mr_tydi_lacks_is_refused_with_those_it_has(tmp_path):
    with pytest.raises(
        InputError, match=r"Mr\. TyDi has no de, fr; its languages are: ar bn en fi id ja ko ru sw te th"
    ):
        list(read_mr_tydi(tmp_path, ["de", "fr", "sw"], "train"))


def test_mr_tydi_questions_have_all_their_passages_with_a_text(tmp_path):
    # The second question has a passage of article 4 too: 4 and 5 are one document.
    passage, other = (
        {"docid": "5#1", "title": "Sayari", "text": "Dunia."},
        {"docid": "4#0", "title": "", "text": "Jua."},
    )
    lines = [
        {"query_id": "1", "query": "Nini?", "positive_passages": [passage], "negative_passages": []},
        {
            "query_id": "2",
            "query": "Nani?",
            "positive_passages": [passage, {"docid": "4#2"}, other],
            "negative_passages": [
                {"docid": "6#0", "title": "", "text": "Mwezi."},
                {"docid": "6#1", "title": "Mwezi", "text": "Mwezi."},
            ],
        },
        {"query_id": "3", "query": "Wapi?", "positive_passages": [{"docid": "7#0", "title": "", "text": ""}]},
        {"query_id": "4", "query": "Lini?", "positive_passages": [{"docid": "7#0"}]},
        {"query": "Lini?", "positive_passages": 3},
    ]
    write(tmp_path / "mrtydi-v1.1-swahili" / "train.jsonl.gz", json_lines(*lines) + "nonsense\n")
    groups, rejected = parted(read_mr_tydi(tmp_path, ["sw"], "train"))
    assert groups == [
        Group("sw/1", "sw/4", {"sw": "Nini?"}, {"sw": (Passage("sw/5#1", "Sayari Dunia."),)}),
        Group(
            "sw/2",
            "sw/4",
            {"sw": "Nani?"},
            {"sw": (Passage("sw/5#1", "Sayari Dunia."), Passage("sw/4#0", "Jua."))},
            {"sw": (Passage("sw/6#0", "Mwezi."), Passage("sw/6#1", "Mwezi Mwezi."))},
        ),
    ]
    missing = "no query_id, query or positive passage with its text"
    assert [(r.where, r.reason) for r in rejected] == [
        ("train.jsonl.gz:3", "empty passage"),
        ("train.jsonl.gz:4", missing),
        ("train.jsonl.gz:5", missing),
        ("train.jsonl.gz:6", "not a JSON object"),
    ]


# SQuADShifts
# github.com/modestyachts/squadshifts-website (b7cc4d5), datasets/: {amazon_reviews,new_wiki,nyt,reddit}_v1.0.json. The
# hub's ludwigschmidt/squadshifts (b3a0741) has a script alone; its refs/convert/parquet has {subset}/test/0000.parquet.


def squad_json(*titles: str) -> str:
    data = [
        {
            "title": title,
            "paragraphs": [
                {"context": f"{title} {p}", "qas": [{"id": f"{i}{p}", "question": "Why?", "answers": []}]} for p in "ab"
            ],
        }
        for i, title in enumerate(titles)
    ]
    return json.dumps({"data": data})


def test_a_document_is_an_article_if_a_subset_names_more_than_one_else_a_paragraph(tmp_path):
    write(tmp_path / "nyt_v1.0.json", squad_json("One", "Two"))
    write(tmp_path / "amazon_reviews_v1.0.json", squad_json("Amazon"))
    groups, rejected = parted(read_squadshifts(tmp_path, ["nyt", "amazon"]))
    assert not rejected
    assert [g.group_id for g in groups] == ["nyt/0a", "nyt/0b", "nyt/1a", "nyt/1b", "amazon/0a", "amazon/0b"]
    assert [g.document for g in groups[:4]] == ["nyt/One", "nyt/One", "nyt/Two", "nyt/Two"]
    assert groups[4].document != groups[5].document
    assert groups[4].passages["en"][0].text == "Amazon a"


def test_the_parquet_conversion_is_read_as_well(tmp_path):
    rows = {"id": ["1", "2"], "title": ["A", "B"], "context": ["C.", None], "question": ["Q?", "R?"], "answers": [1, 2]}
    (tmp_path / "reddit" / "test").mkdir(parents=True)
    pq.write_table(pa.table(rows), tmp_path / "reddit/test/0000.parquet")
    groups, rejected = parted(read_squadshifts(tmp_path, ["reddit"]))
    assert [(g.group_id, g.document, g.passages["en"][0].text) for g in groups] == [("reddit/1", "reddit/A", "C.")]
    assert [(r.where, r.reason) for r in rejected] == [("reddit:2", "empty passage")]


@pytest.mark.parametrize("broken", [b"PAR1 no", None])
def test_a_parquet_file_that_is_broken_or_lacks_a_column_is_named(tmp_path, broken):
    path = write(tmp_path / "nyt" / "0000.parquet", broken or b"")
    if broken is None:
        pq.write_table(pa.table({"id": ["1"], "text": ["T"]}), path)
    with pytest.raises(InputError, match=r"0000\.parquet has no readable id, title, context and question"):
        list(read_squadshifts(tmp_path, ["nyt"]))
