"""Every parser of what users bring, on inputs that hypothesis breaks: a good result, or an InputError; nothing else.

Each starts from a small input of the right kind. Either some of its bytes are changed, or, where it is JSON, one of its
values becomes another one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_group, write_store
from hypothesis import HealthCheck, example, given, settings, strategies as st

from hybrid_ir.config.loading import load_experiment
from hybrid_ir.data.lexicon import read_lexicon
from hybrid_ir.data.read_files import read_json_lines
from hybrid_ir.data.sources.lareqa import lareqa_collection, read_lareqa
from hybrid_ir.data.sources.miracl import read_miracl
from hybrid_ir.data.sources.mr_tydi import read_mr_tydi
from hybrid_ir.data.sources.ntrex import read_ntrex
from hybrid_ir.data.sources.records import read_records
from hybrid_ir.data.sources.squad import read_squad, squad_question_ids
from hybrid_ir.data.sources.squadshifts import read_squadshifts
from hybrid_ir.data.sources.tatoeba import read_tatoeba
from hybrid_ir.data.store import open_store
from hybrid_ir.evaluation.tasks.mewsli_x import _read_entity, load_mewsli
from hybrid_ir.evaluation.tasks.miracl import load_miracl, read_corpus
from hybrid_ir.evaluation.tasks.tatoeba import load_tatoeba
from hybrid_ir.evaluation.tasks.xcopa import load_xcopa
from hybrid_ir.evaluation.test_sets.layouts import load_test_set
from hybrid_ir.evaluation.test_sets.measure import measure_judged
from hybrid_ir.index.passages import IndexedPassage, read_passages
from hybrid_ir.languages import language_code
from hybrid_ir.tuning.search_space import load_space
from hybrid_ir.types import Group, InputError, Rejected

fuzzed = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck), database=None)


def lines(*records: Any) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


QUESTION = {"id": "1", "question": "Who?", "answers": [{"text": "she", "answer_start": 1}]}
PARAGRAPH = {"context": "It is she. Yes.", "qas": [QUESTION]}
SENTENCES = {"sentences": ["It is she.", "Yes."], "sentence_breaks": [[0, 10], [11, 15]]}
SQUAD = json.dumps({"data": [{"title": "T", "paragraphs": [PARAGRAPH]}]}).encode()
LAREQA = json.dumps({"data": [{"title": "T", "paragraphs": [PARAGRAPH | SENTENCES]}]}).encode()
MENTION = {"example_id": "m", "entity_id": "Q1", "mention_span": {"start": 0, "end": 2, "text": "It"}}
CONTEXT = {"language": "en", "text": "It is she.", "sentence_spans": [{"start": 0, "end": 10}]}
CHOICE = {"premise": "p", "choice1": "x", "choice2": "y", "question": "cause", "label": 1}
JUDGED = {"docid": "5#1", "title": "T", "text": "P."}
WIDE = {
    "group_id": "g",
    "document": "d",
    "queries": {"en": "Q?", "zh-TW": "問"},
    "passages": {"en": {"doc_id": "p", "text": "P."}, "zh-CN": "答", "zh-TW": "答"},
    "negatives": {"en": "N."},
}
FLAT = {"group_id": 7, "language": "de", "query": "F?", "passage": "A.", "negative": None}


def check_records(records) -> None:
    """What comes out may be trained on: known languages, texts of letters that a tokenizer can read."""
    for record in records:
        assert isinstance(record, Group | Rejected)
        if isinstance(record, Rejected):
            assert len(record.reason) < 300
            continue
        assert record.queries
        assert record.passages.keys() == record.queries.keys() >= record.negatives.keys()
        texts = [record.group_id, record.document, *record.queries.values()]
        texts += [
            text for p in (*record.passages.values(), *record.negatives.values()) for passage in p for text in passage
        ]
        for text in texts:
            assert text.encode("utf-8").strip()
        assert all(language_code(code) == code for code in record.queries)


def check_passages(passages) -> None:
    for passage in passages:
        assert isinstance(passage, IndexedPassage | Rejected)
        if isinstance(passage, IndexedPassage):
            assert passage.doc_id.encode()
            assert passage.text.strip()
            assert language_code(passage.language) == passage.language


def check_miracl(folder: Path) -> None:
    for test in load_miracl(str(folder)).values():
        assert all(isinstance(text, str) for text in test.topics.values())
        assert all(isinstance(p.doc_id, str) and p.text.encode() for p in read_corpus(test.corpus))


def check_xcopa(folder: Path) -> None:
    for choices in load_xcopa(str(folder)).values():
        assert all(c.label in (0, 1) and c.premise.strip() and all(c.choices) for c in choices)


def check_mewsli(folder: Path) -> None:
    assert all(m.text.encode() for m in load_mewsli(str(folder)))
    for where, record in read_json_lines(folder / "candidate_set_entities.jsonl"):
        assert isinstance(_read_entity(where, record).text, str)


def check_judged(name: str, **files: str) -> Callable[[Path], None]:
    """Whatever is read can be measured, and the run holds it."""

    def check(folder: Path) -> None:
        test = load_test_set(name, str(folder), **files)
        measure_judged(test, ones, ones, folder / "runs")
        for file in ("all.trec", "qrels.trec"):
            text = (folder / "runs" / file).read_text(encoding="utf-8")
            assert {len(line.split()) for line in text.split("\n")[:-1]} <= {4, 6}

    return check


def ones(texts: Sequence[str], languages: object) -> np.ndarray:
    assert all(text.strip() and text.encode() for text in texts)
    return np.ones((len(texts), 2), np.float32)


def check_squad(folder: Path) -> None:
    check_records(read_squad({"en": folder / "a.json", "de": folder / "b.json"}))
    assert all(isinstance(i, str) for i in squad_question_ids(folder / "a.json"))


def check_lareqa(folder: Path) -> None:
    check_records(read_lareqa(folder))
    assert all(c.text.strip() and c.text.encode() for c in lareqa_collection(folder, "x").candidates)


MIRACL = {
    "topics.miracl-v1.0-sw-dev.tsv": b"q1\tNini?\nq2\tNani?\n",
    "qrels.miracl-v1.0-sw-dev.tsv": b"q1\tQ0\t5#1\t1\nq2\tQ0\t5#1\t0\n",
    "miracl-corpus-v1.0-sw/docs-0.jsonl": lines(JUDGED, {**JUDGED, "docid": "6#0"}),
}
TOPICS = b"<top>\n<num> Number: 1\n<title> Nini\n</top>\n<top>\n<num> 2\n<title> Nani\n</top>\n"
PASSAGE = {"title": "T", "text": "x", "metadata": {"language": "sw"}}
TYDI = {"query_id": "1", "query": "Q?", "positive_passages": [JUDGED], "negative_passages": [JUDGED]}
PARSERS: dict[str, tuple[dict[str, bytes], Callable[[Path], Any]]] = {
    "records": ({"a.jsonl": lines(WIDE, FLAT, FLAT)}, lambda folder: check_records(read_records(folder / "a.jsonl"))),
    "passages": (
        {"a.jsonl": lines({"doc_id": 7, "text": "t", "language": "en", "metadata": {"year": 1, "who": None}})},
        lambda folder: check_passages(read_passages(folder / "a.jsonl")),
    ),
    "squad": ({"a.json": SQUAD, "b.json": SQUAD}, check_squad),
    "lareqa": ({"en.json": LAREQA, "de.json": LAREQA}, check_lareqa),
    "squadshifts": ({"nyt_v1.0.json": SQUAD}, lambda folder: check_records(read_squadshifts(folder, ["nyt"]))),
    "mr_tydi": (
        {"mrtydi-v1.1-bengali/train.jsonl": lines(TYDI, TYDI)},
        lambda folder: check_records(read_mr_tydi(folder, ["bn"], "train")),
    ),
    "miracl": (MIRACL, lambda folder: check_records(read_miracl(folder, ["sw"], "dev", folder))),
    "miracl test": (MIRACL, check_miracl),
    "beir": (
        {
            "queries.jsonl": lines({"_id": "1", "text": "Nini?", "metadata": {}}, {"_id": "2", "text": "Nani?"}),
            "corpus.jsonl": lines({"_id": "5", **PASSAGE}, {"_id": "6", **PASSAGE}),
            "qrels/test.tsv": b"query-id\tcorpus-id\tscore\n1\t5\t1\n2\t6\t2\n",
        },
        check_judged("beir"),
    ),
    "trec": (
        {"topics": TOPICS, "qrels": b"1 0 5 1\n2 0 6 -2\n", "a.tsv": b"5\tx\n6\ty\n"},
        check_judged("trec", topics="topics", qrels="qrels", corpus="a.tsv"),
    ),
    "judged": (
        {
            "queries.jsonl": lines({"query_id": "1", "text": "Nini?", "language": "sw"}),
            "passages.jsonl": lines({"doc_id": 5, "text": "x", "language": "en"}, {"doc_id": "6", "text": "y"}),
            "judgements.jsonl": lines({"query_id": 1, "doc_id": 5, "grade": 1}),
        },
        check_judged("judged"),
    ),
    "xcopa": ({"test.sw.jsonl": lines(CHOICE, CHOICE)}, check_xcopa),
    "mewsli-x": (
        {
            "wikinews_mentions-test.jsonl": lines({"context": CONTEXT, "mentions": [MENTION]}),
            "candidate_set_entities.jsonl": lines({"entity_id": "Q1", "title": "T", "description": "D"}),
        },
        check_mewsli,
    ),
    "ntrex": (
        {"newstest2019-src.eng.txt": b"a\nb\n", "newstest2019-ref.deu.txt": b"x\ny\n", "DOCUMENT_IDS.tsv": b"d\nd\n"},
        lambda folder: check_records(read_ntrex(folder, pairing="next_sentence")),
    ),
    "tatoeba": (
        {"tatoeba.deu-eng.deu": b"x\ny\n", "tatoeba.deu-eng.eng": b"a\nb\n"},
        lambda folder: (check_records(read_tatoeba(folder)), load_tatoeba(str(folder))),
    ),
    "lexicon": (
        {"a.tsv": b"source_language\ttarget_language\tsource\ttarget\nen\tde\tdog\tHund\n"},
        lambda folder: read_lexicon(folder / "a.tsv"),
    ),
    "config": (
        {"a.yaml": b"batch: {languages: [no, en], mix: {monolingual: 1}}\ntrain: &t\n  steps: 7\nprepare:\n  sources:\n"
         b"    - {kind: records, path: a #1}\n"},
        lambda folder: load_experiment(folder / "a.yaml"),
    ),
    "space": (
        {"a.yaml": b"search: grid\naxes:\n  batch.alpha: {values: [0, 0.5]}\n"},
        lambda folder: load_space(folder / "a.yaml"),
    ),
}  # fmt: skip

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["en", "xx", "zh-TW"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def broken_bytes(draw, whole: bytes) -> bytes:
    at = draw(st.integers(0, len(whole)))
    to = draw(st.integers(at, min(len(whole), at + 20)))
    odd = st.sampled_from(
        [b"", b"\xff", b"\x00", b"\r", b"\n", b"\t", b"{", b"[" * 5000, b": ", b"*t", b"\xef\xbb\xbf"]
    )
    return whole[:at] + draw(odd | st.binary(max_size=12)) + whole[to:]


def places(value: Any, path=()) -> list[tuple]:
    """Where in a JSON value another may stand: every node, by its path."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in items for place in places(child, (*path, key)))]


@st.composite
def broken_json(draw, whole: bytes) -> bytes:
    """One value of one line, or of the file, is another, or its key is gone."""
    rows = [json.loads(line) for line in whole.decode().splitlines()]
    row = draw(st.integers(0, len(rows) - 1))
    path = draw(st.sampled_from(places(rows[row])))
    if not path:
        rows[row] = draw(json_values)
    else:
        node = rows[row]
        for key in path[:-1]:
            node = node[key]
        if draw(st.booleans()):
            node[path[-1]] = draw(json_values)
        else:
            del node[path[-1]]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.mark.parametrize("name", PARSERS)
@fuzzed
@given(data=st.data())
def test_a_broken_input_gives_a_good_result_or_an_input_error(tmp_path, name, data):
    files, check = PARSERS[name]
    broken = data.draw(st.sampled_from(sorted(files)))
    whole = files[broken]
    is_json = broken.endswith(("json", "jsonl"))
    content = data.draw(broken_bytes(whole) | broken_json(whole) if is_json else broken_bytes(whole))
    for file, text in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(content if file == broken else text)
    with suppress(InputError):
        check(tmp_path)


@fuzzed
@given(st.text(max_size=30))
@example("[" * 500)
@example("{" * 500)
@example("9" * 10_000)
@example("0x" + "f" * 10_000)
@example("&a [*a, *a]")
@example("[&a [*a]]")
@example("!!python/object:os.system [a]")
@example("[!!binary x, !!timestamp y]")
@example("[!!int x]")
@example("{? [a] : b}")
@example('"\\ud800"')
def test_any_value_on_the_command_line_is_taken_or_refused(text):
    for path in ("batch.mix", "train.steps", "prepare.sources", text):
        with suppress(InputError):
            load_experiment(None, [f"{path}={text}"])


columns = st.sampled_from(
    ["group_id", "document", "language", "query", "passage", "negative", "queries", "passages", "x"]
)


@st.composite
def tables(draw) -> pa.Table:
    """Columns that records may have, each of some type of Parquet, nested ones included."""
    size = draw(st.integers(0, 3))
    text = st.none() | st.text(st.characters(codec="utf-8"), max_size=5) | st.sampled_from(["en", "de", "zh-TW"])
    shapes = {
        pa.string(): text,
        pa.int64(): st.none() | st.integers(-9, 9),
        pa.float64(): st.none() | st.floats(),
        pa.bool_(): st.booleans(),
        pa.binary(): st.binary(max_size=4),
        pa.timestamp("us"): st.none() | st.integers(0, 10**15),
        pa.list_(pa.string()): st.lists(text, max_size=2),
        pa.map_(pa.string(), pa.string()): st.lists(st.tuples(st.sampled_from(["en", "de", "?"]), text), max_size=3),
        pa.struct({"en": pa.string(), "de": pa.string()}): st.fixed_dictionaries({"en": text, "de": text}),
        pa.struct({"en": pa.struct({"doc_id": pa.int64(), "text": pa.string()})}): st.fixed_dictionaries(
            {"en": st.none() | st.fixed_dictionaries({"doc_id": st.none() | st.integers(-9, 9), "text": text})}
        ),
    }
    made = {}
    for name in draw(st.lists(columns, unique=True, max_size=6)):
        kind = draw(st.sampled_from(list(shapes)))
        made[name] = pa.array(draw(st.lists(shapes[kind], min_size=size, max_size=size)), kind)
    return pa.table(made)


@fuzzed
@given(tables())
def test_a_parquet_file_of_any_types_is_read_or_refused(tmp_path, table):
    pq.write_table(table, tmp_path / "a.parquet")
    for check in (lambda p: check_records(read_records(p)), lambda p: check_passages(read_passages(p))):
        with suppress(InputError):
            check(tmp_path / "a.parquet")


@pytest.fixture(scope="module")
def parquet_bytes(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("parquet") / "a.parquet"
    pq.write_table(pa.table({"language": ["en", "de"], "query": ["Q", "F"], "passage": ["P", "A"]}), path)
    return path.read_bytes()


@fuzzed
@given(data=st.data())
def test_a_damaged_parquet_file_is_read_or_refused(tmp_path, parquet_bytes, data):
    (tmp_path / "a.parquet").write_bytes(data.draw(broken_bytes(parquet_bytes)))
    with suppress(InputError):
        check_records(read_records(tmp_path / "a.parquet"))


@pytest.fixture(scope="module")
def small_store(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "store"
    write_store(path, [make_group(n) for n in range(30)])
    return path


@fuzzed
@given(data=st.data())
def test_a_damaged_manifest_of_a_store_is_read_or_refused(tmp_path, small_store, data):
    shutil.copytree(small_store, tmp_path / "s", dirs_exist_ok=True)
    whole = json.dumps(json.loads((small_store / "manifest.json").read_bytes())).encode()
    (tmp_path / "s" / "manifest.json").write_bytes(data.draw(broken_bytes(whole) | broken_json(whole)))
    with suppress(InputError):
        store = open_store(str(tmp_path / "s"))
        assert all(isinstance(x, str) for x in store.languages)
        store.collection("test")
