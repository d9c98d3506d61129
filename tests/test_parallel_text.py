"""Line-parallel text, small enough to see whole and the real NTREX and Tatoeba."""

from __future__ import annotations

from collections import Counter

import pytest
from readers import DATA, needs_data, parted

from hybrid_ir.data.sources.ntrex import ntrex_files, read_ntrex
from hybrid_ir.data.sources.parallel_lines import read_parallel_lines
from hybrid_ir.data.sources.tatoeba import read_tatoeba, tatoeba_files
from hybrid_ir.types import InputError


@pytest.fixture
def small_parallel(tmp_path):
    (tmp_path / "en.txt").write_bytes(b"one\r\ntwo\nthree\nfour\n")
    (tmp_path / "de.txt").write_bytes(b"eins\nzwei\n \nvier\n")
    (tmp_path / "documents").write_text("a\na\na\nb\n")
    return {"eng": tmp_path / "en.txt", "de": tmp_path / "de.txt"}, tmp_path / "documents"


def test_a_translation_asks_for_the_same_line(small_parallel):
    groups, rejected = parted(read_parallel_lines(*small_parallel, "translation"))
    assert [(g.document, dict(g.queries)) for g in groups] == [
        ("a", {"de": "eins", "en": "one"}),
        ("a", {"de": "zwei", "en": "two"}),
        ("a", {"en": "three"}),
        ("b", {"de": "vier", "en": "four"}),
    ]
    assert all(g.passages[code].text == text for g in groups for code, text in g.queries.items())
    assert [(r.where, r.reason) for r in rejected] == [("de.txt:3", "one language left out: empty query")]


def test_a_next_sentence_stays_in_its_document(small_parallel):
    groups, rejected = parted(read_parallel_lines(*small_parallel, "next_sentence"))
    assert [{code: (q, g.passages[code].text) for code, q in g.queries.items()} for g in groups] == [
        {"de": ("eins", "zwei"), "en": ("one", "two")},
        {"en": ("two", "three")},
    ]
    assert [r.reason for r in rejected] == ["one language left out: empty passage"]


def test_files_of_different_length_are_named_with_their_lengths(small_parallel):
    files, documents = small_parallel
    files["de"].write_text("eins\n")
    with pytest.raises(InputError, match=r"de.txt has 1 lines, .*en.txt has 4"):
        list(read_parallel_lines(files, documents))


def test_next_sentence_without_documents_is_refused(small_parallel):
    with pytest.raises(InputError, match="needs document_ids"):
        list(read_parallel_lines(small_parallel[0], None, "next_sentence"))


def test_bytes_that_are_not_utf_8_leave_one_language_of_one_line_out(small_parallel):
    files, documents = small_parallel
    files["de"].write_bytes(b"eins\nzw\xffi\ndrei\nvier\n")
    groups, rejected = parted(read_parallel_lines(files, documents))
    assert [len(g.queries) for g in groups] == [2, 1, 2, 2]
    assert [r.reason for r in rejected] == ["one language left out: query is not valid UTF-8"]


def test_of_two_variants_ntrex_takes_the_source_and_the_plain_one(tmp_path):
    for name in ("src.eng", "ref.eng-IN", "ref.spa-MX", "ref.spa", "ref.zho-TW", "ref.zho-CN"):
        (tmp_path / f"newstest2019-{name}.txt").write_text("x\n")
    names = {code: path.name for code, path in ntrex_files(tmp_path).items()}
    assert names == {
        "en": "newstest2019-src.eng.txt",
        "es": "newstest2019-ref.spa.txt",
        "zh": "newstest2019-ref.zho-CN.txt",
    }


@needs_data
@pytest.mark.parametrize(("pairing", "count"), [("translation", 1997), ("next_sentence", 1997 - 123)])
def test_ntrex_has_1997_lines_of_123_documents_in_every_language(pairing, count):
    groups, rejected = parted(read_ntrex(DATA / "ntrex", ["en", "el", "zh", "sw"], pairing))
    assert not rejected
    assert len(groups) == count
    assert len({g.document for g in groups}) == 123
    assert all(len(g.queries) == 4 for g in groups)


@needs_data
def test_ntrex_has_25_files_and_all_are_as_long():
    files = ntrex_files(DATA / "ntrex")
    assert len(files) == 25
    groups, rejected = parted(read_parallel_lines(files, None))
    assert (len(groups), len(rejected)) == (1997, 0)


# Tatoeba


def test_an_english_sentence_of_two_pair_files_is_one_document_and_one_passage(tmp_path):
    for name, lines in {
        "deu-eng.deu": "Hallo.\nJa.\n",
        "deu-eng.eng": "Hello.\nYes.\n",
        "cmn-eng.cmn": "你好。\n",
        "cmn-eng.eng": "Hello.\n",
    }.items():
        (tmp_path / f"tatoeba.{name}").write_text(lines)
    groups, _ = parted(read_tatoeba(tmp_path))
    assert [(g.group_id, sorted(g.queries)) for g in groups] == [
        ("de/1", ["de", "en"]),
        ("de/2", ["de", "en"]),
        ("zh/1", ["en", "zh"]),
    ]
    assert groups[0].document == groups[2].document != groups[1].document
    assert groups[0].passages["en"].doc_id == groups[2].passages["en"].doc_id
    only, _ = parted(read_tatoeba(tmp_path, ["zh", "en"]))
    assert [g.group_id for g in only] == ["zh/1"]


@needs_data
def test_tatoeba_has_28_languages_and_every_line_of_them():
    assert len(tatoeba_files(DATA / "tatoeba")) == 28
    groups, rejected = parted(read_tatoeba(DATA / "tatoeba"))
    assert not rejected
    assert len(groups) == 23285
    assert Counter(g.group_id.split("/")[0] for g in groups)["am"] == 168
    assert len({g.document for g in groups}) == 20855
