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
    assert all(g.passages[code][0].text == text for g in groups for code, text in g.queries.items())
    assert [(r.where, r.reason) for r in rejected] == [("de.txt:3", "one language left out: empty query")]


def test_a_next_sentence_stays_in_its_document(small_parallel):
    groups, rejected = parted(read_parallel_lines(*small_parallel, "next_sentence"))
    assert [{code: (q, g.passages[code][0].text) for code, q in g.queries.items()} for g in groups] == [
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
    (reason,) = (r.reason for r in rejected)
    assert reason.startswith("one language left out: query is not valid UTF-8 (convert the file")


def test_of_two_variants_ntrex_takes_the_source_and_the_plain_one(tmp_path):
    """Names of NTREX-128 in github.com/MicrosoftTranslator/NTREX (c9f006f): Spanish has a second reference."""
    for name in ("src.eng", "ref.eng-IN", "ref.spa-MX", "ref.spa", "ref-2.spa", "ref.zho-TW", "ref.zho-CN", "ref.hmn"):
        (tmp_path / f"newstest2019-{name}.txt").write_text("x\n")
    for name in ("ref.srp-Latn", "ref.srp-Cyrl", "ref.por-BR", "ref.por"):
        (tmp_path / f"newstest2019-{name}.txt").write_text("x\n")
    files, left_out = ntrex_files(tmp_path)
    assert {code: path.name.split(".", 1)[1] for code, path in files.items()} == {
        "en": "eng.txt",
        "es": "spa.txt",
        "hmn": "hmn.txt",
        "pt": "por.txt",
        "sr": "srp-Cyrl.txt",
        "zh": "zho-CN.txt",
    }
    assert files["es"].name == "newstest2019-ref.spa.txt"
    assert {r.record for r in left_out} == {"eng-IN", "spa-MX", "zho-TW", "srp-Latn", "por-BR"}
    assert {r.reason for r in left_out} == {"left out: another form of a language that is read"}
    assert ntrex_files(tmp_path, ["zh-TW"])[0]["zh"].name == "newstest2019-ref.zho-TW.txt"
    assert ntrex_files(tmp_path, ["zh-Hant"]).left_out == [], "it was asked for"


def test_what_another_form_of_a_language_says_is_counted_and_not_read(tmp_path):
    for name, text in {"src.eng": "one", "ref.zho-CN": "一个", "ref.zho-TW": "一個", "ref.xxx": "?"}.items():
        (tmp_path / f"newstest2019-{name}.txt").write_text(f"{text}\n")
    (tmp_path / "DOCUMENT_IDS.tsv").write_text("d\n")
    (group,), rejected = parted(read_ntrex(tmp_path))
    assert group.queries == {"en": "one", "zh": "一个"}
    assert sorted((r.where.split(".", 1)[1], r.reason) for r in rejected) == [
        ("xxx.txt", "left out: no known language has its tag"),
        ("zho-TW.txt", "left out: another form of a language that is read"),
    ]


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
    files, left_out = ntrex_files(DATA / "ntrex")
    assert not left_out
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
    assert groups[0].passages["en"][0].doc_id == groups[2].passages["en"][0].doc_id
    only, _ = parted(read_tatoeba(tmp_path, ["zh", "en"]))
    assert [g.group_id for g in only] == ["zh/1"]


@needs_data
def test_tatoeba_has_28_languages_and_every_line_of_them():
    assert len(tatoeba_files(DATA / "tatoeba").files) == 28
    groups, rejected = parted(read_tatoeba(DATA / "tatoeba"))
    assert not rejected
    assert len(groups) == 23285
    assert Counter(g.group_id.split("/")[0] for g in groups)["am"] == 168
    assert len({g.document for g in groups}) == 20855


TATOEBA = """afr amh ang ara arq arz ast awa aze bel ben ber bos bre bul cat cbk ceb ces cha cmn cor csb cym dan deu dsb
dtp ell epo est eus fao fin fra fry gla gle glg gsw heb hin hrv hsb hun hye ido ile ina ind isl ita jav jpn kab kat kaz
khm kor kur kzj lat lfn lit lvs mal mar max mhr mkd mon nds nld nno nob nov oci orv pam pes pms pol por ron rus slk slv
spa sqi srp swe swg swh tam tat tel tgl tha tuk tur tzl uig ukr urd uzb vie war wuu xho yid yue zsm"""


def test_upstream_s_own_folder_of_tatoeba_is_read_whole(tmp_path):
    """The 112 codes of data/tatoeba/v1 in github.com/facebookresearch/LASER (74bc6ae)."""
    for code in TATOEBA.split():
        for side in (code, "eng"):
            (tmp_path / f"tatoeba.{code}-eng.{side}").write_text(f"a sentence of {side}\n")
    groups, rejected = parted(read_tatoeba(tmp_path))
    assert len(groups) == 112 - 7
    assert {(r.record, r.reason) for r in rejected} == {
        *((code, "left out: no known language has its tag") for code in ("ber", "cbk", "max", "orv", "swg", "tzl")),
        ("kzj", "left out: its language has another file, under its new code"),
    }
    assert {"dtp", "wuu", "yue", "zh"} <= {g.group_id.partition("/")[0] for g in groups}
