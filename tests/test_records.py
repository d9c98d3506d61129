"""The user's own records, good and bad."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from readers import CASES, needs_cases, parted

from hybrid_ir.config.sources import RecordsSource
from hybrid_ir.data.inputs import inputs_for
from hybrid_ir.data.prepare import prepare
from hybrid_ir.data.sources.records import read_records
from hybrid_ir.data.store import open_store
from hybrid_ir.types import InputError, Passage


def write_lines(path, *records):
    lines = [r if isinstance(r, bytes) else json.dumps(r, ensure_ascii=False).encode() for r in records]
    data = b"\n".join(lines) + b"\n"
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


WIDE = {
    "group_id": "g",
    "document": "d",
    "queries": {"eng": " Q? ", "de": "F?"},
    "passages": {"en": {"doc_id": "p1", "text": "P."}, "de": "A."},
    "negatives": {"en": "N."},
}


def test_a_wide_record_is_a_group_and_a_flat_one_a_monolingual_pair(tmp_path):
    flat = {"language": "en", "query": "Q?", "passage": "P.", "negative": "N."}
    path = write_lines(tmp_path / "mine.jsonl", WIDE, b"", flat)
    groups, rejected = parted(read_records(path))
    assert not rejected
    assert groups[0].queries == {"de": "F?", "en": "Q?"}
    assert groups[0].passages["en"] == (Passage("p1", "P."),)
    assert groups[0].negatives["en"][0].text == groups[1].negatives["en"][0].text == "N."
    assert (groups[1].group_id, groups[1].document) == ("mine.jsonl:3", "mine.jsonl:3")


def test_equal_texts_without_an_id_are_one_passage(tmp_path):
    flat = {"language": "en", "query": "Q?", "passage": "P."}
    groups, _ = parted(read_records(write_lines(tmp_path / "a.jsonl", flat, {**flat, "passage": "P.  "})))
    assert groups[0].passages["en"][0].doc_id == groups[1].passages["en"][0].doc_id


BAD = [
    (b'{"queries": ', "not valid JSON"),
    (b"[" * 100_000, "not valid JSON"),
    (b"3", "not a JSON object"),
    (b"{}", "no query and no passage"),
    (b'{"language": "en", "query": "Q", "passage": "P \xff"}', "passage is not valid UTF-8"),
    (b'{"language": "en", "query": "\\ud800", "passage": "P"}', "query is not valid UTF-8"),
    (b"\xff\x00\xfe", "not valid JSON"),
    ({"language": "en", "query": " ", "passage": "P"}, "empty query"),
    ({"language": "en", "query": "Q", "passage": ""}, "empty passage"),
    ({"language": "en", "query": "Q"}, "no passage"),
    ({"query": "Q", "passage": "P"}, "language is missing or not a string"),
    ({"language": "xx", "query": "Q", "passage": "P"}, "unknown language 'xx'"),
    ({"language": "en", "query": "Q", "passage": "P", "score": 1}, "unknown field score"),
    ({"queries": {"en": "Q"}, "passages": {"en": 3}}, "passages has something that is neither"),
    ({"queries": {"en": "Q"}, "passages": {"en": {"doc_id": "p"}}}, "passages has something that is neither"),
    ({"queries": ["Q"], "passages": {"en": "P"}}, "queries must map languages to texts"),
    ({"queries": {"en": "Q", "eng": "R"}, "passages": {"en": "P"}}, "queries has two texts for one language"),
    ({"queries": {"en": "Q"}, "passages": {"de": "P"}}, "no query"),
    ({"group_id": 7.5, "queries": {"en": "Q"}, "passages": {"en": "P"}}, "group_id must be a string or an integer"),
    ({"group_id": True, "queries": {"en": "Q"}, "passages": {"en": "P"}}, "group_id must be a string or an integer"),
    ({"document": " ", "queries": {"en": "Q"}, "passages": {"en": "P"}}, "empty document"),
]


@pytest.mark.parametrize(("record", "reason"), BAD)
def test_a_bad_record_is_rejected_with_a_reason_and_reading_goes_on(tmp_path, record, reason):
    path = write_lines(tmp_path / "mine.jsonl", record, WIDE)
    groups, rejected = parted(read_records(path))
    assert [g.group_id for g in groups] == ["g"]
    assert rejected[0].reason.startswith(reason)
    assert rejected[0].where == "mine.jsonl:1"
    assert len(rejected[0].record) <= 200
    assert "\n" not in rejected[0].reason


def test_a_language_with_one_half_is_left_out_and_counted(tmp_path):
    record = {"queries": {"en": "Q", "de": "F"}, "passages": {"en": "P"}, "negatives": {"de": "N", "en": " "}}
    groups, rejected = parted(read_records(write_lines(tmp_path / "a.jsonl", record)))
    assert (list(groups[0].queries), list(groups[0].passages), groups[0].negatives) == (["en"], ["en"], {})
    assert [r.reason for r in rejected] == [
        "one language left out: no passage",
        "negative left out: its language has no good pair",
        "negative left out: empty negative",
    ]


HALVES = ("passages", "negatives")
SEVERAL = {
    "group_id": 7,
    "queries": {"en": "Q?", "de": "F?"},
    "passages": {"en": ["A.", None, {"doc_id": "b", "text": " B. "}], "de": "A. auf Deutsch"},
    "negatives": {"en": ["M.", {"doc_id": 9, "text": "N."}], "de": ["M. auf Deutsch"]},
}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_language_may_have_several_passages_and_negatives(tmp_path, suffix):
    """A text alone is a list of one; null is absent."""
    path = tmp_path / f"mine.{suffix}"
    if suffix == "parquet":  # whose lists are of one type
        wide = {half: {x: v if isinstance(v, list) else [v] for x, v in SEVERAL[half].items()} for half in HALVES}
        as_structs = {
            half: {x: [{"text": v} if isinstance(v, str) else v for v in several] for x, several in of.items()}
            for half, of in wide.items()
        }
        as_structs["negatives"]["en"][1]["doc_id"] = "9"
        pq.write_table(pa.Table.from_pylist([{**SEVERAL, **as_structs}]), path)
    else:
        write_lines(path, SEVERAL)
    groups, rejected = parted(read_records(path))
    assert rejected == []
    assert [p.text for p in groups[0].passages["en"]] == ["A.", "B."]
    assert groups[0].passages["en"][1].doc_id == "b"
    assert [p.text for p in groups[0].passages["de"]] == ["A. auf Deutsch"]
    assert [p.text for p in groups[0].negatives["en"]] == ["M.", "N."]
    assert groups[0].negatives["en"][1].doc_id == "9"


def test_a_pair_in_one_language_may_have_lists_too(tmp_path):
    record = {"language": "en", "query": "Q?", "passage": ["A.", "B."], "negative": ["M.", "N."]}
    (group,), _ = parted(read_records(write_lines(tmp_path / "mine.jsonl", record)))
    assert [p.text for p in group.passages["en"]] == ["A.", "B."]
    assert [p.text for p in group.negatives["en"]] == ["M.", "N."]


@pytest.mark.parametrize(
    ("change", "reason", "shown"),
    [
        ({"passages": {"en": [], "de": "D."}}, "one language left out: no passage: its list is empty", '"en"'),
        ({"passages": {"de": "D."}, "negatives": {}}, "one language left out: no passage", '"en"'),
        ({"passages": {"en": [" ", ""], "de": "D."}}, "one language left out: empty passage", '"en"'),
        ({"passages": {"en": ["A.", " "], "de": "D."}}, "passage left out: empty passage", '"en": " "'),
        (
            {"passages": {"en": ["A.", "A. "], "de": "D."}},
            "passage left out: its doc_id stands twice in one list; give each passage once",
            '"en": "A. "',
        ),
        ({"negatives": {"en": ["N.", ""]}}, "negative left out: empty negative", '"en": ""'),
        ({"negatives": {"en": []}}, "negative left out: its list is empty; leave out what has no negative", '"en": []'),
        (
            {"negatives": {"en": ["N.", {"doc_id": "b", "text": "another text"}]}},
            "negative left out: it is a passage of its group too; take it out of one of the two",
            "another text",
        ),
        (
            {"negatives": {"de": {"doc_id": "x", "text": "A. auf Deutsch"}}},
            "negative left out: it is a passage of its group too; take it out of one of the two",
            "A. auf Deutsch",
        ),
    ],
)
def test_what_is_wrong_in_a_list_is_left_out_and_says_where(tmp_path, change, reason, shown):
    """The file and line, the group_id and the language are said; what is good of the group is kept."""
    groups, rejected = parted(read_records(write_lines(tmp_path / "mine.jsonl", {}, {**SEVERAL, **change})))
    assert "de" in groups[0].queries
    assert groups[0].passages.keys() == groups[0].queries.keys() >= groups[0].negatives.keys()
    wrong = [record for record in rejected if record.where == "mine.jsonl:2" and "no good pair" not in record.reason]
    assert [record.reason for record in wrong] == [reason] * len(wrong) != []
    assert '"group_id": "7"' in wrong[0].record
    assert shown in wrong[0].record


def test_a_list_of_questions_is_no_question(tmp_path):
    _, rejected = parted(read_records(write_lines(tmp_path / "a.jsonl", {**SEVERAL, "queries": {"en": ["Q?", "R?"]}})))
    assert rejected[0].reason.startswith("queries has something that is neither a text")


def test_parquet_records_may_be_structs_or_maps_and_null_is_absent(tmp_path):
    struct = pa.table({"queries": [{"en": "Q", "de": None}], "passages": [{"en": "P", "de": None}], "document": [None]})
    pq.write_table(struct, tmp_path / "a.parquet")
    text_of = pa.map_(pa.string(), pa.string())
    maps = {"queries": pa.array([[("de", "F")]], text_of), "passages": pa.array([[("de", "A")]], text_of)}
    pq.write_table(pa.table(maps), tmp_path / "b.parquet")
    groups, rejected = parted(read_records(tmp_path))
    assert not rejected
    assert [(g.group_id, g.document, dict(g.queries)) for g in groups] == [
        ("a.parquet:1", "a.parquet:1", {"en": "Q"}),
        ("b.parquet:1", "b.parquet:1", {"de": "F"}),
    ]


def test_a_parquet_row_that_is_not_utf_8_is_rejected_alone(tmp_path):
    raw = pa.array([b"P\xff", b"P"], pa.binary())
    passages = pa.StringArray.from_buffers(2, raw.buffers()[1], raw.buffers()[2])
    pq.write_table(
        pa.table({"language": ["en", "en"], "query": ["Q", "Q"], "passage": passages}), tmp_path / "a.parquet"
    )
    groups, rejected = parted(read_records(tmp_path / "a.parquet"))
    assert [g.group_id for g in groups] == ["a.parquet:2"]
    assert [r.where for r in rejected] == ["a.parquet:1"]


def test_a_map_with_a_language_twice_is_rejected_alone(tmp_path):
    text_of = pa.map_(pa.string(), pa.string())
    both = {half: pa.array([[("en", "a"), ("en", "b")], [("en", "c")]], text_of) for half in ("queries", "passages")}
    pq.write_table(pa.table(both), tmp_path / "a.parquet")
    groups, rejected = parted(read_records(tmp_path / "a.parquet"))
    assert [g.queries for g in groups] == [{"en": "c"}]
    assert [(r.where, r.record) for r in rejected] == [
        ("a.parquet:1", "a row that is not UTF-8, or a map with a key twice")
    ]


def test_a_corrupt_parquet_file_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"language": ["en"], "query": ["Q"], "passage": ["P"]}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"a\.parquet cannot be read after row 0"):
        list(read_records(path))


# Layouts that people have


def prepared(tmp_path, *records, test_fraction=0.0, name="mine.jsonl"):
    """Manifest, groups by id (as a store of training has them) and splits of a source of these records."""
    source = RecordsSource(kind="records", path=str(write_lines(tmp_path / name, *records)))
    prepare(
        inputs_for([source]),
        str(tmp_path / "s"),
        seed=0,
        validation_fraction=0,
        test_fraction=test_fraction,
        settings={},
    )
    return open_store(str(tmp_path / "s"))


def rows_of(store):
    return {
        group_id: {
            x: (store.take(i, np.array([row]), f"q_{x}")[0], store.take(i, np.array([row]), f"p_{x}")[0][0])
            for x in part.languages
        }
        for i, part in enumerate(store.partitions)
        for row, group_id in enumerate(store.take(i, np.arange(part.rows), "group_id"))
    }


def test_rows_of_one_group_id_a_language_each_are_one_group(tmp_path):
    rows = [
        {"group_id": f"g{n}", "document": f"d{n // 2}", "language": x, "query": f"{x} Q{n}", "passage": f"{x} P{n}"}
        for x in ("de", "en")
        for n in range(10)
    ]
    store = prepared(tmp_path, *rows, rows[3], {**rows[4], "query": "another"}, {**rows[5], "language": "fr"})
    groups = rows_of(store)
    assert groups["records:g7"] == {"de": ("de Q7", "de P7"), "en": ("en Q7", "en P7")}
    assert len(groups) == 10 == store.manifest["sources"]["records"]["groups"]
    assert store.manifest["sources"]["records"]["rejected"] == {"duplicate group_id": 2}
    assert store.manifest["language_versions_unused"] == 1, "the one French version has no partner to be batched with"


def test_ids_may_be_integers_and_a_column_of_them_may_have_gaps(tmp_path):
    flat = {"language": ["en", "de", "en"], "query": ["Q", "F", "R"], "passage": ["P", "A", "S"]}
    pq.write_table(pa.table({"group_id": [1, 1, 2], **flat}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"group_id": [1.0, 1.0, None], "document": [7, 7, 8], **flat}), tmp_path / "b.parquet")
    groups, rejected = parted(read_records(tmp_path / "a.parquet"))
    assert not rejected
    assert [(g.group_id, g.document) for g in groups] == [("1", "1"), ("1", "1"), ("2", "2")]
    groups, rejected = parted(read_records(tmp_path / "b.parquet"))
    assert not rejected
    assert [(g.group_id, g.document) for g in groups] == [("1", "7"), ("1", "7"), ("b.parquet:3", "8")]
    nested = {"queries": {"en": "Q"}, "passages": {"en": {"doc_id": 12, "text": "P"}}}
    assert parted(read_records(write_lines(tmp_path / "c.jsonl", nested)))[0][0].passages["en"] == (Passage("12", "P"),)


@pytest.mark.parametrize(
    ("forms", "kept", "left_out"),
    [
        (("zh-TW", "zh-CN"), "zh-CN", ["zh-TW"]),
        (("zh-Hant", "zh"), "zh", ["zh-Hant"]),
        (("sr-Latn", "sr-Cyrl", "sh-BA"), "sr-Cyrl", ["sr-Latn", "sr-Latn-BA"]),
        (("pt-PT", "pt-BR"), "pt-BR", ["pt-PT"]),
        (("uz-Cyrl", "uz-Latn"), "uz-Latn", ["uz-Cyrl"]),
        (("zh-TW",), "zh-TW", []),
    ],
)
def test_of_two_forms_of_a_language_the_usual_is_read_and_the_other_counted(tmp_path, forms, kept, left_out):
    record = {
        half: {form: f"{half} {form}" for form in (*forms, "en")} for half in ("queries", "passages", "negatives")
    }
    groups, rejected = parted(read_records(write_lines(tmp_path / "a.jsonl", record)))
    code = kept.partition("-")[0]
    assert groups[0].queries == {"en": "queries en", code: f"queries {kept}"}
    assert groups[0].passages[code][0].text == f"passages {kept}"
    assert groups[0].negatives[code][0].text == f"negatives {kept}"
    assert [(r.reason, r.record) for r in rejected] == [
        ("one language left out: another form of it is read", form) for form in left_out
    ]
    rows = [
        {"group_id": "g", "language": form, "query": f"queries {form}", "passage": f"passages {form}"}
        for form in (*forms, "en")
    ]
    store = prepared(tmp_path, *rows)
    assert rows_of(store)["records:g"][code] == (f"queries {kept}", f"passages {kept}"), "a row a language is alike"


def test_a_form_with_both_halves_is_read_before_a_more_usual_one(tmp_path):
    record = {"queries": {"zh-CN": "a", "zh-TW": "b"}, "passages": {"zh-TW": "c"}}
    (group,), rejected = parted(read_records(write_lines(tmp_path / "a.jsonl", record)))
    assert (group.queries["zh"], group.passages["zh"][0].text, len(rejected)) == ("b", "c", 1)
    record = {"queries": {"zh-CN": "a"}, "passages": {"zh": "c"}}
    (group,), rejected = parted(read_records(write_lines(tmp_path / "a.jsonl", record)))
    assert (group.queries["zh"], group.passages["zh"][0].text, rejected) == ("a", "c", [])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_file_in_another_encoding_is_named_with_it(tmp_path, encoding):
    (tmp_path / "a.jsonl").write_text(json.dumps(WIDE), encoding=encoding)
    with pytest.raises(
        InputError, match=rf"a\.jsonl is {encoding[:6].upper()}[BL]?E?, not UTF-8; convert it: iconv -f UTF-"
    ):
        list(read_records(tmp_path / "a.jsonl"))


def test_a_text_in_another_encoding_says_that_it_may_be_one(tmp_path):
    record = json.dumps({"language": "de", "query": "für?", "passage": "für"}, ensure_ascii=False)
    (tmp_path / "a.jsonl").write_text(record, encoding="latin-1")
    ((rejected),) = read_records(tmp_path / "a.jsonl")
    assert rejected.reason == "query is not valid UTF-8 (convert the file from its encoding, such as Latin-1)"


@pytest.mark.parametrize("shared", ["passage", "query", "doc_id"])
def test_groups_that_share_a_passage_or_a_question_are_in_one_split(tmp_path, shared):
    """Forty questions on ten paragraphs, no document named: split by row, most paragraphs were in train and test."""

    def record(n):
        text = {"doc_id": f"p{n % 10}", "text": f"paragraph {n}"} if shared == "doc_id" else f"paragraph {n % 10}"
        passage = f"paragraph {n}" if shared == "query" else text
        query = f"question {n % 10}" if shared == "query" else f"question {n}"
        return {"queries": {"en": query, "de": f"Frage {n}"}, "passages": {"en": passage, "de": f"Absatz {n}"}}

    store = prepared(tmp_path, *map(record, range(40)), test_fraction=0.3)
    groups = {int(g.rpartition(":")[2]) - 1 for g in rows_of(store)}
    tested = {int(q.group_id.rpartition(":")[2]) - 1 for q in store.collection("test").queries}
    assert len(groups | tested) == 40
    assert len(tested) == 12
    assert not {n % 10 for n in groups} & {n % 10 for n in tested}


def test_documents_that_share_a_text_are_one_over_any_chain_and_in_any_order(tmp_path):
    links = [("a", "x"), ("b", "y"), ("c", "z"), ("a", "y"), ("d", "z"), ("e", "w")]
    records = [
        {"document": d, "language": "en", "query": f"Q{n}", "passage": passage} for n, (d, passage) in enumerate(links)
    ]
    for order in (records, records[::-1]):
        prepared(tmp_path, *order)
        rows = pq.read_table(tmp_path / "s" / "splits.parquet").to_pylist()
        assert [row["document"] for row in rows] == ["records:a", "records:c", "records:e"]


def test_groups_that_share_any_of_their_passages_are_one_document(tmp_path):
    records = [
        {"document": "a", "language": "en", "query": "Q1", "passage": ["x", "y"]},
        {"document": "b", "language": "en", "query": "Q2", "passage": ["z", "y"]},
        {"document": "c", "language": "en", "query": "Q3", "passage": ["w"], "negative": ["x", "y"]},
    ]
    prepared(tmp_path, *records)
    rows = pq.read_table(tmp_path / "s" / "splits.parquet").to_pylist()
    assert [row["document"] for row in rows] == ["records:a", "records:c"]


@needs_cases
def test_the_layouts_that_people_have_are_read_whole(tmp_path):
    def manifest(name):
        source = RecordsSource(kind="records", path=str(CASES / name))
        return prepare(
            inputs_for([source]),
            str(tmp_path / name),
            seed=0,
            validation_fraction=0,
            test_fraction=0.2,
            settings={},
        )

    long = manifest("long_format.jsonl")
    assert long["groups"] == {"train": 8, "test": 2}
    assert long["languages"] == {"de": 8, "en": 8}
    assert long["sources"]["records"]["rejected"] == {}
    assert manifest("integer_ids.parquet")["sources"]["records"]["rejected"] == {}
    chinese = manifest("chinese_scripts.jsonl")
    assert chinese["sources"]["records"] | {"train": 0, "test": 0} == {
        "groups": 12,
        "rejected": {"one language left out: another form of it is read": 12},
        "use": None,
        "hub": [],
        "train": 0,
        "test": 0,
    }
    assert set(chinese["languages"]) == {"en", "zh"}


def test_a_folder_is_read_in_order_and_a_byte_order_mark_does_no_harm(tmp_path):
    flat = {"language": "en", "query": "Q?", "passage": "P."}
    (tmp_path / "sub").mkdir()
    write_lines(tmp_path / "sub" / "b.jsonl.gz", flat)
    write_lines(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + json.dumps(flat).encode())
    (tmp_path / "README.md").write_text("notes")
    groups, _ = parted(read_records(tmp_path))
    assert [g.group_id for g in groups] == ["a.jsonl:1", "sub/b.jsonl.gz:1"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "no .jsonl, .jsonl.gz, .parquet file in .*; found notes.txt"),
        ("notes.txt", "got .*notes.txt"),
        ("a.jsonl", "no file .*a.jsonl; found notes.txt"),
        ("a.parquet", "no file .*a.parquet; found notes.txt"),
    ],
)
def test_a_path_without_records_says_what_was_found(tmp_path, name, message):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=message):
        list(read_records(tmp_path / name))


def test_space_without_width_around_a_text_is_no_part_of_it_and_alone_it_is_no_text(tmp_path):
    file = tmp_path / "records.jsonl"
    rows = [
        {"language": "en", "query": "\u200bWhere?\ufeff", "passage": "Here.\u2060\n"},
        {"language": "en", "query": "\u200b\ufeff", "passage": "Here."},
        {"language": "en", "query": "Where?", "passage": "\u2060"},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    groups, rejected = parted(read_records(file))
    assert [(g.queries["en"], g.passages["en"][0].text) for g in groups] == [("Where?", "Here.")]
    assert [r.where for r in rejected] == ["records.jsonl:2", "records.jsonl:3"]
