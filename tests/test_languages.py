"""Codes, names, families and scripts of languages."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybrid_ir.languages import (
    FAMILY,
    form_order,
    language_code,
    language_family,
    language_name,
    language_script,
    written_form,
)
from hybrid_ir.types import InputError

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="real benchmark files are not here")

MIRACL = ["ar", "bn", "de", "en", "es", "fa", "fi", "fr", "hi", "id", "ja", "ko", "ru", "sw", "te", "th", "yo", "zh"]
MMARCO = ["ar", "de", "en", "es", "fr", "hi", "id", "it", "ja", "nl", "pt", "ru", "vi", "zh"]
MR_TYDI = ["ar", "bn", "en", "fi", "id", "ja", "ko", "ru", "sw", "te", "th"]
XQUAD_R = ["ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh"]
XCOPA = ["et", "ht", "id", "it", "qu", "sw", "ta", "th", "tr", "vi", "zh"]


@pytest.mark.parametrize(
    ("tag", "code"),
    [
        ("arb", "ar"),
        ("ara", "ar"),
        ("cmn", "zh"),
        ("zho-CN", "zh"),
        ("zh_Hant_TW", "zh"),
        ("swh", "sw"),
        ("pes", "fa"),
        ("fas", "fa"),
        ("eng", "en"),
        ("EN-us", "en"),
        ("yue", "yue"),
        ("zh-yue", "yue"),
        ("tel", "te"),
        ("ben", "bn"),
        ("srp-Cyrl", "sr"),
        (" de ", "de"),
    ],
)
def test_every_spelling_of_a_language_has_one_code(tag, code):
    assert language_code(tag) == code
    assert language_code(code) == code


@pytest.mark.parametrize("tag", ["", "e", "xx", "qzz", "english", "en fr", "en-", "12", "und", "mul", "root", "ён"])
def test_what_is_not_a_language_is_refused_with_advice(tag):
    with pytest.raises(InputError, match=r"unknown language .* use an ISO 639 code"):
        language_code(tag)


def test_names_are_english():
    assert [language_name(code) for code in ("el", "yue", "ht")] == ["Greek", "Cantonese", "Haitian Creole"]


def test_every_language_of_the_benchmarks_has_a_family():
    for code in {*MIRACL, *MMARCO, *MR_TYDI, *XQUAD_R, *XCOPA}:
        assert language_family(code) != "other", code


def test_families_are_the_ones_the_field_reports():
    assert [language_family(c) for c in ("de", "el", "hi", "fa", "zh", "vi", "th", "te", "eu")] == [
        "Germanic",
        "Hellenic",
        "Indo-Aryan",
        "Iranian",
        "Sino-Tibetan",
        "Austroasiatic",
        "Kra-Dai",
        "Dravidian",
        "Basque (isolate)",
    ]
    assert language_family("haw") == "other"


def test_every_code_with_a_family_is_canonical():
    assert {code: language_code(code) for code in FAMILY} == {code: code for code in FAMILY}


def test_scripts_are_the_usual_ones():
    scripts = {code: language_script(code) for code in ("el", "ru", "ja", "ko", "zh", "yue", "th", "ar", "sw")}
    assert scripts == {
        "el": "Grek",
        "ru": "Cyrl",
        "ja": "Jpan",
        "ko": "Kore",
        "zh": "Hans",
        "yue": "Hant",
        "th": "Thai",
        "ar": "Arab",
        "sw": "Latn",
    }


@needs_data
def test_every_file_of_ntrex_and_tatoeba_is_of_a_language_with_a_family_and_a_script():
    tags = [p.name.split(".")[1] for p in (DATA / "ntrex").glob("newstest2019-*.txt")]
    tags += [p.name.split(".")[2] for p in (DATA / "tatoeba").iterdir()]
    codes = {tag: language_code(tag) for tag in tags}
    assert codes["zho-CN"] == codes["cmn"] == "zh"
    assert codes["arb"] == codes["ara"] == "ar"
    assert codes["fas"] == codes["pes"] == "fa"
    assert codes["swa"] == codes["swh"] == "sw"
    assert all(language_family(code) != "other" and language_script(code) != "Zzzz" for code in codes.values())


@needs_data
def test_only_one_language_of_the_whole_ntrex_is_unknown_to_cldr():
    tags = [line.split()[0] for line in (DATA / "ntrex" / "LANGUAGES.tsv").read_text().splitlines()]
    unknown = []
    for tag in tags:
        try:
            language_code(tag)
        except InputError:
            unknown.append(tag)
    assert unknown == ["mey"]


@pytest.mark.parametrize(
    ("tag", "form"),
    [
        ("eng", "en"),
        ("cmn-TW", "zh-TW"),
        ("zh_Hant", "zh-Hant"),
        ("sh", "sr-Latn"),
        ("prs", "fa-AF"),
        ("es-419", "es-419"),
    ],
)
def test_a_form_is_the_language_with_the_script_and_region_of_its_tag(tag, form):
    assert written_form(tag) == form


@pytest.mark.parametrize(
    "usual_first",
    [
        "zh zh-CN zh-Hans zh-HK zh-Hant zh-TW",
        "pt pt-BR pt-PT",
        "sr sr-Cyrl sr-Latn",
        "en en-US en-GB",
        "uz-Latn uz-Cyrl",
    ],
)
def test_the_usual_form_of_a_language_comes_first(usual_first):
    forms = usual_first.split()
    assert sorted(set(forms), key=form_order) == forms
