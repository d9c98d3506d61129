"""The user's own records, good and bad."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from readers import parted

from hybrid_ir.data.sources.records import read_records
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
    assert groups[0].passages["en"] == Passage("p1", "P.")
    assert groups[0].negatives["en"].text == groups[1].negatives["en"].text == "N."
    assert (groups[1].group_id, groups[1].document) == ("mine.jsonl:3", "mine.jsonl:3")


def test_equal_texts_without_an_id_are_one_passage(tmp_path):
    flat = {"language": "en", "query": "Q?", "passage": "P."}
    groups, _ = parted(read_records(write_lines(tmp_path / "a.jsonl", flat, {**flat, "passage": "P.  "})))
    assert groups[0].passages["en"].doc_id == groups[1].passages["en"].doc_id


BAD = [
    (b'{"queries": ', "not valid JSON"),
    (b"[" * 100_000, "not valid JSON"),
    (b"3", "not a JSON object"),
    (b"{}", "no query and no passage"),
    (b'{"language": "en", "query": "Q", "passage": "P \xff"}', "passage is not valid UTF-8"),
    (b'{"language": "en", "query": "\\ud800", "passage": "P"}', "query is not valid UTF-8"),
    (b"\xff\xfe\x00", "not valid JSON"),
    ({"language": "en", "query": " ", "passage": "P"}, "empty query"),
    ({"language": "en", "query": "Q", "passage": ""}, "empty passage"),
    ({"language": "en", "query": "Q"}, "no passage"),
    ({"query": "Q", "passage": "P"}, "language is missing or not a string"),
    ({"language": "xx", "query": "Q", "passage": "P"}, "unknown language 'xx'"),
    ({"language": "en", "query": "Q", "passage": "P", "score": 1}, "unknown field score"),
    ({"queries": {"en": "Q"}, "passages": {"en": 3}}, "passages has something that is neither"),
    ({"queries": {"en": "Q"}, "passages": {"en": {"text": "P"}}}, "passages has something that is neither"),
    ({"queries": ["Q"], "passages": {"en": "P"}}, "queries must map languages to texts"),
    ({"queries": {"en": "Q", "eng": "R"}, "passages": {"en": "P"}}, "queries has two texts for one language"),
    ({"queries": {"en": "Q"}, "passages": {"de": "P"}}, "no query"),
    ({"group_id": 7, "queries": {"en": "Q"}, "passages": {"en": "P"}}, "group_id must be a string"),
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


def test_a_corrupt_parquet_file_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"language": ["en"], "query": ["Q"], "passage": ["P"]}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"a\.parquet cannot be read after row 0"):
        list(read_records(path))


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
