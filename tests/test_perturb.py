"""Perturbed queries: what each perturbation does in each script, and that it depends on the text alone."""

import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from hybrid_ir.data.lexicon import Lexicon
from hybrid_ir.evaluation.perturbations import PERTURBATIONS, perturb, strip_diacritics, transliterate, typos
from hybrid_ir.types import InputError

LEXICON = Lexicon(
    {
        ("en", "de"): {"cat": "Katze", "capital of": "Hauptstadt von"},
        ("en", "zh"): {"cat": "猫"},
        ("zh", "en"): {"中国": "China"},
    }
)
QUERIES = {
    "ar": "ما عاصمة الصين؟",
    "de": "Was ist die Hauptstadt von Österreich?",
    "el": "Ποια είναι η πρωτεύουσα της Ελλάδας;",
    "en": "What is the capital of Austria?",
    "es": "¿Cuál es la capital de España?",
    "hi": "फ़्रांस की राजधानी क्या है?",
    "ru": "Какой город является столицей России?",
    "th": "เมืองหลวงของจีนคืออะไร",
    "tr": "Türkiye'nin başkenti neresidir?",
    "vi": "Thủ đô của Trung Quốc là gì?",
    "zh": "中国的首都是哪里？",
}


# ---- typos


def edits(word):
    """Every spelling that one typo makes of a word in Latin letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    places = range(len(word))
    return (
        {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in places[:-1]}
        | {word[:i] + word[i + 1 :] for i in places}
        | {word[:i] + word[i] + word[i:] for i in places}
        | {word[:i] + letter + word[i + 1 :] for i in places for letter in letters}
    ) - {word}


def test_every_word_gets_one_typo_at_rate_one():
    words = ["what", "is", "the", "capital", "of", "austria"]
    for seed in range(50):
        misspelt = typos(" ".join(words), 1.0, np.random.default_rng(seed)).split(" ")
        assert all(typo in edits(word) for word, typo in zip(words, misspelt, strict=True))


def test_all_four_kinds_of_typo_occur():
    found = {typos("ab cd", 1.0, np.random.default_rng(seed)).split(" ")[0] for seed in range(200)}
    assert found == {"ba", "a", "b", "aab", "abb", "bb", "cb", "db", "aa", "ac", "ad"}


def test_a_typo_keeps_the_case_of_the_letter_that_it_replaces():
    found = {typos("A b", 1.0, np.random.default_rng(seed)).split(" ")[0] for seed in range(50)}
    assert found == {"AA", "B"}


def test_rate_is_the_share_of_words_with_a_typo():
    words = typos(" ".join(["word"] * 1000), 0.2, np.random.default_rng(3)).split()
    assert 160 < sum(word != "word" for word in words) < 240


@pytest.mark.parametrize("language", QUERIES)
def test_typos_stay_in_the_script_and_leave_punctuation(language):
    query = QUERIES[language]
    changed = perturb([query], [language], "typos", seed=1, rate=1.0)[0]
    assert changed != query
    assert set(changed.casefold()) <= set(query.casefold())
    for mark in "?؟;¿？' ":
        assert changed.count(mark) == query.count(mark)


def test_a_letter_and_its_marks_stay_together():
    for seed in range(50):
        changed = typos("กี่ ขู้ किताब", 1.0, np.random.default_rng(seed))
        assert all(not unicodedata.category(word[0]).startswith("M") for word in changed.split())


def test_what_has_no_letters_gets_no_typos():
    assert typos("1984? 🙂 ...", 1.0, np.random.default_rng(0)) == "1984? 🙂 ..."


# ---- diacritics


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Đường phố Việt Nam ở đâu?", "Duong pho Viet Nam o dau?"),
        ("Iğdır'ın çöl şarkısı, İstanbul", "Igdir'in col sarkisi, Istanbul"),
        ("Übergröße für Käse", "Ubergroße fur Kase"),
        ("¿Cuál es el año?", "¿Cual es el ano?"),
        ("Łódź, Malmø", "Lodz, Malmo"),
        ("Ποια είναι η πρωτεύουσα; Μαΐου ΐ", "Ποια ειναι η πρωτευουσα; Μαιου ι"),
        ("Ещё один мой за́мок Її", "Еще один мой замок Її"),
        ("أَيْنَ الكِتَابُ؟", "اين الكتاب؟"),
        ("إلى الآن سؤال شيء", "الى الان سؤال شيء"),
        ("שָׁלוֹם", "שלום"),
        ("फ़्रांस की ज़मीन है", "फ्रांस की जमीन है"),
    ],
)
def test_diacritics_go(text, plain):
    assert strip_diacritics(text) == plain
    assert strip_diacritics(unicodedata.normalize("NFD", text)) == plain


@pytest.mark.parametrize(
    "text", ["น้ำที่นี่", "中国的首都", "がっこう", "한국어", "हिन्दी में", "বাংলা", "plain", "\u0301", "\u093c"]
)
def test_marks_that_make_the_word_stay(text):
    assert strip_diacritics(text) == text


# ---- Latin letters


@pytest.mark.parametrize(
    ("text", "latin"),
    [
        ("Привет, мир!", "Privet, mir!"),
        ("Αθήνα;", "Athina;"),
        ("中国，北京？", "ZhongGuo,BeiJing?"),
        ("हिन्दी १२", "hindi 12"),
        ("ไทย", "aithy"),
        ("الصين؟", "lsyn?"),
        ("iPhone 手机 🙂", "iPhone ShouJi 🙂"),
    ],
)
def test_other_scripts_become_latin(text, latin):
    assert transliterate(text) == latin


@pytest.mark.parametrize("text", ["Đường phố", "¿Cuál es?", "„Größe“ – 90 €", "ışık", "cafe\u0301", "\ue000", "🙂"])
def test_latin_letters_and_symbols_stay(text):
    assert transliterate(text) == text


# ---- all of them


def test_code_switching_goes_into_any_language_of_the_lexicon():
    found = {perturb(["A cat"], ["en"], "code_switched", seed=s, rate=1.0, lexicon=LEXICON)[0] for s in range(20)}
    assert found == {"A Katze", "A 猫"}
    assert perturb(["中国的首都"], ["zh"], "code_switched", seed=0, rate=1.0, lexicon=LEXICON) == ["China的首都"]
    assert perturb(["A cat"], ["fr"], "code_switched", seed=0, rate=1.0, lexicon=LEXICON) == ["A cat"]


@pytest.mark.parametrize("kind", PERTURBATIONS)
def test_a_text_is_perturbed_alike_wherever_it_stands(kind):
    texts, languages = list(QUERIES.values()), list(QUERIES)
    options = {"seed": 5, "rate": 0.5, "lexicon": LEXICON}
    together = perturb(texts, languages, kind, **options)
    assert perturb(texts[::-1], languages[::-1], kind, **options)[::-1] == together
    alone = [perturb([text], [code], kind, **options)[0] for text, code in zip(texts, languages, strict=True)]
    assert alone == together


def test_seed_and_language_change_what_is_drawn():
    text = QUERIES["en"]
    assert len({perturb([text], ["en"], "typos", seed=seed, rate=0.5)[0] for seed in range(10)}) > 5
    assert perturb([text], ["en"], "typos", seed=0, rate=1.0) != perturb([text], ["de"], "typos", seed=0, rate=1.0)


def test_another_process_draws_the_same():
    call = "perturb(['What is the capital of Austria?'], ['en'], 'typos', seed=3, rate=0.5)[0]"
    code = f"from hybrid_ir.evaluation import perturb; print({call})"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert outputs == {perturb(["What is the capital of Austria?"], ["en"], "typos", seed=3, rate=0.5)[0]}


@pytest.mark.parametrize("kind", ["typos", "code_switched"])
def test_rate_zero_changes_nothing(kind):
    texts = list(QUERIES.values())
    assert perturb(texts, list(QUERIES), kind, seed=0, rate=0.0, lexicon=LEXICON) == texts


@settings(deadline=None, max_examples=300)
@given(text=st.text(), kind=st.sampled_from(PERTURBATIONS), language=st.sampled_from(sorted(QUERIES)))
def test_no_text_fails_or_is_emptied_or_stops_being_unicode(text, kind, language):
    (changed,) = perturb([text], [language], kind, seed=0, rate=1.0, lexicon=LEXICON)
    assert bool(changed) == bool(text)
    assert bool(changed.strip()) == bool(text.strip())
    changed.encode("utf-8")


@settings(deadline=None, max_examples=300)
@given(st.text())
def test_stripping_and_transliterating_twice_is_doing_it_once(text):
    assert strip_diacritics(strip_diacritics(text)) == strip_diacritics(text)


def test_what_the_user_can_mend_is_said():
    with pytest.raises(InputError, match=r"unknown perturbation 'noise'; use one of typos, no_diacritics, translit"):
        perturb(["a"], ["en"], "noise", seed=0, rate=0.1)
    with pytest.raises(InputError, match="code_switched needs a lexicon, found none"):
        perturb(["a"], ["en"], "code_switched", seed=0, rate=0.1)
    with pytest.raises(InputError, match=r"rate of a perturbation must be in \[0, 1\], got 1.5"):
        perturb(["a"], ["en"], "typos", seed=0, rate=1.5)
