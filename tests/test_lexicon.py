"""Lexicons from CLDR and from files, and words of a text swapped for their translations."""

import gzip
import pickle

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from hybrid_ir.data.atlas.names import LANGUAGES
from hybrid_ir.data.lexicon import Lexicon, cldr_lexicon, code_switch, read_lexicon
from hybrid_ir.types import InputError

HEADER = "source_language\ttarget_language\tsource\ttarget\n"


@pytest.fixture(scope="module")
def cldr():
    return cldr_lexicon(LANGUAGES)


def switch_all(text, words, source="en", target="de"):
    lexicon = Lexicon({(source, target): words})
    return code_switch(text, lexicon, source, [target], 1.0, np.random.default_rng(0))


# ---- code-switching


@pytest.mark.parametrize(
    ("text", "switched"),
    [
        ("the cat sat", "the Katze sat"),
        ("concatenate cats", "concatenate cats"),
        ("CAT, Cat; cat!", "Katze, Katze; Katze!"),
        ("cat's", "Katze's"),
        ("", ""),
        ("  \n", "  \n"),
    ],
)
def test_whole_words_are_replaced_whatever_their_case(text, switched):
    assert switch_all(text, {"cat": "Katze"}) == switched


def test_the_longest_phrase_is_replaced_and_its_words_are_not():
    words = {"new": "neu", "New York": "Neu-York", "New York City Hall": "Rathaus", "city": "Stadt"}
    assert switch_all("New York City is a new city", words) == "Neu-York Stadt is a neu Stadt"


def test_any_white_space_joins_a_phrase_but_punctuation_does_not():
    words = {"United States": "USA"}
    assert switch_all("united \n states; united, states", words) == "USA; united, states"


def test_a_phrase_may_hold_punctuation():
    assert switch_all("Is Guinea-Bissau in Guinea?", {"Guinea": "A", "Guinea-Bissau": "B"}) == "Is B in A?"


@pytest.mark.parametrize(
    ("language", "text", "words", "switched"),
    [
        ("zh", "中国的首都在哪里？", {"中国": "China", "首都": "capital"}, "China的capital在哪里？"),
        ("zh", "中华人民共和国", {"中华": "x", "中华人民共和国": "PRC"}, "PRC"),
        ("th", "เมืองหลวงของจีนคืออะไร", {"จีน": "China"}, "เมืองหลวงของChinaคืออะไร"),
        ("hi", "फ़्रांस की राजधानी", {"फ़्रांस": "France", "की": "of"}, "France of राजधानी"),
        ("ar", "ما عاصمة الصين؟", {"الصين": "China"}, "ما عاصمة China؟"),
        ("vi", "thủ đô của Trung Quốc", {"trung quốc": "China"}, "thủ đô của China"),
        ("tr", "Çin'in başkenti", {"Çin": "China"}, "China'in başkenti"),
        ("el", "ΠΟΙΟΣ ΔΡΌΜΟΣ", {"δρόμος": "road"}, "ΠΟΙΟΣ road"),
        ("ru", "столица Чада и Чад", {"Чад": "Chad"}, "столица Чада и Chad"),
    ],
)
def test_words_are_found_in_every_script(language, text, words, switched):
    assert switch_all(text, words, language, "en") == switched


def test_a_phrase_does_not_cut_a_thai_syllable_or_a_hindi_mark():
    assert switch_all("การค้า", {"ก": "x"}, "th", "en") == "การค้า"
    assert switch_all("किताब", {"क": "x"}, "hi", "en") == "किताब"


def test_words_do_not_run_into_each_other_where_the_source_has_no_spaces():
    assert switch_all("法国语言90", {"法国": "France", "语言": "language"}, "zh", "en") == "France language 90"


def test_composed_and_decomposed_letters_are_the_same_word():
    assert switch_all("cafe\u0301", {"caf\u00e9": "Kaffee"}) == "Kaffee"
    assert switch_all("caf\u00e9", {"cafe\u0301": "Kaffee"}) == "Kaffee"


def test_each_word_goes_into_one_of_the_languages_that_have_it():
    lexicon = Lexicon({("en", "de"): {"cat": "Katze", "dog": "Hund"}, ("en", "es"): {"cat": "gato"}})
    text = " ".join(["cat"] * 100 + ["dog"] * 20)
    switched = code_switch(text, lexicon, "en", ["de", "es", "fr"], 1.0, np.random.default_rng(7)).split()
    assert set(switched[:100]) == {"Katze", "gato"}
    assert 30 < switched[:100].count("gato") < 70
    assert set(switched[100:]) == {"Hund"}


def test_a_phrase_of_another_target_language_does_not_hide_a_shorter_one():
    lexicon = Lexicon({("en", "de"): {"New": "neu"}, ("en", "es"): {"New York": "Nueva York"}})
    assert code_switch("New York", lexicon, "en", ["de"], 1.0, np.random.default_rng(0)) == "neu York"


def test_rate_is_the_share_of_words():
    text = " ".join(["cat"] * 1000)
    lexicon = Lexicon({("en", "de"): {"cat": "Katze"}})
    switched = code_switch(text, lexicon, "en", ["de"], 0.3, np.random.default_rng(1)).split()
    assert 250 < switched.count("Katze") < 350
    assert len(switched) == 1000


def test_a_language_that_the_lexicon_lacks_is_left_alone():
    lexicon = Lexicon({("en", "de"): {"cat": "Katze"}})
    assert code_switch("cat", lexicon, "fr", ["de"], 1.0, np.random.default_rng(0)) == "cat"
    assert code_switch("cat", lexicon, "en", ["fr"], 1.0, np.random.default_rng(0)) == "cat"
    assert (lexicon.targets("en"), lexicon.targets("fr")) == (("de",), ())


def test_a_lexicon_pickles_whatever_the_length_of_its_phrases():
    lexicon = Lexicon({("zh", "en"): {"中" * 1000: "long"}})
    code_switch("中", lexicon, "zh", ["en"], 1.0, np.random.default_rng(0))
    assert code_switch(
        "中" * 1000, pickle.loads(pickle.dumps(lexicon)), "zh", ["en"], 1.0, np.random.default_rng(0)
    ) == ("long")


@settings(deadline=None)
@given(text=st.text(), words=st.dictionaries(st.text(min_size=1), st.text(min_size=1)), seed=st.integers(0, 99))
def test_any_text_stays_itself_at_rate_zero_and_is_never_emptied(text, words, seed):
    lexicon = Lexicon({("en", "de"): words})
    assert code_switch(text, lexicon, "en", ["de"], 0.0, np.random.default_rng(seed)) == text
    assert bool(code_switch(text, lexicon, "en", ["de"], 1.0, np.random.default_rng(seed))) == bool(text)


# ---- CLDR


@pytest.mark.parametrize(
    ("source", "target", "word", "translation"),
    [
        ("en", "de", "France", "Frankreich"),
        ("de", "tr", "Deutsch", "Almanca"),
        ("en", "es", "Japanese Yen", "yen japonés"),
        ("zh", "vi", "中国", "Trung Quốc"),
        ("hi", "ar", "चीन", "الصين"),
        ("th", "en", "จีน", "China"),
        ("th", "en", "ภาษาจีน", "Chinese"),
        ("ru", "el", "кириллица", "Κυριλλικό"),
        ("en", "de", "Arabic", "Arabisch"),
    ],
)
def test_cldr_names_translate(cldr, source, target, word, translation):
    assert cldr.pairs[source, target][word] == translation


def test_cldr_has_hundreds_of_names_for_each_two_languages_of_atlas(cldr):
    assert len(cldr.pairs) == 11 * 10
    assert min(map(len, cldr.pairs.values())) > 800


@pytest.mark.parametrize("language", ["bn", "fa", "fi", "fr", "id", "it", "ja", "ko", "nl", "pt", "sw", "te", "yo"])
def test_the_languages_of_other_benchmarks_have_cldr_names_too(language):
    pairs = cldr_lexicon(["en", language]).pairs
    assert len(pairs["en", language]) > 100
    assert len(pairs[language, "en"]) > 100


def test_cldr_names_that_say_nothing_are_left_out(cldr):
    assert "Chad" not in cldr.pairs["en", "es"]  # the same in both
    assert "и" not in cldr.pairs["ru", "en"]  # a script, and "and"
    assert "เงิน" not in cldr.pairs["th", "en"]  # silver, and money
    assert "pháp" not in {name.casefold() for name in cldr.pairs["vi", "en"]}  # France, and law
    assert all(word.casefold() != other.casefold() for words in cldr.pairs.values() for word, other in words.items())


def test_names_in_other_scripts_have_no_latin_letters(cldr):
    assert not any("a" <= letter.lower() <= "z" for word in cldr.pairs["zh", "ar"] for letter in word)


def test_a_language_without_cldr_data_is_refused():
    with pytest.raises(InputError, match="no names in 'tlh'; leave that language out"):
        cldr_lexicon(["en", "tlh"])
    with pytest.raises(InputError, match="no translations in CLDR's names in en"):
        cldr_lexicon(["en"])


# ---- files


def test_a_folder_in_muse_format(tmp_path):
    (tmp_path / "en-de.txt").write_text(
        "cat katze\ncat kater\ndog\thund\nNew York\tNeu York\n\nberlin berlin\n", "utf-8"
    )
    (tmp_path / "eng-zho.txt").write_text("cat 猫\r\n", "utf-8")
    (tmp_path / "README.md").write_text("not a lexicon")
    (tmp_path / "en-es.txt.gz").write_bytes(gzip.compress(b"cat gato\n"))
    assert read_lexicon(tmp_path).pairs == {
        ("en", "de"): {"cat": "katze", "dog": "hund", "New York": "Neu York"},
        ("en", "es"): {"cat": "gato"},
        ("en", "zh"): {"cat": "猫"},
    }


def test_a_table(tmp_path):
    path = tmp_path / "lexicon.tsv"
    path.write_text(HEADER + "en\tde\tcat\tKatze\nen\tde\tcat\tKater\ndeu\ten\tgroße Katze\tbig cat\n", "utf-8")
    assert read_lexicon(path).pairs == {("en", "de"): {"cat": "Katze"}, ("de", "en"): {"große Katze": "big cat"}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("cat katze\nthe big cat\n", r"en-de.txt:2 must be a word and its translation .* found 'the big cat'"),
        ("cat\n", r"en-de.txt:1 must be a word and its translation"),
        ("cat\t\n", r"en-de.txt:1 must be a word and its translation"),
        (b"cat k\xe4tzchen\n", r"en-de.txt:1 is not UTF-8; convert"),
        ("berlin Berlin\n", r"no translations in .*; a lexicon needs words that differ"),
    ],
)
def test_a_wrong_muse_file_is_refused_by_name_and_line(tmp_path, content, message):
    (tmp_path / "en-de.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        read_lexicon(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("en-qzz.txt", r"en-qzz.txt: unknown language 'qzz'; use an ISO 639 code"),
        ("en-eng.txt", r"en-eng.txt: source and target language are both en"),
        ("words.txt", r"must be named like en-de.txt; found words.txt"),
    ],
)
def test_a_wrongly_named_muse_file_is_refused(tmp_path, name, message):
    (tmp_path / name).write_text("cat katze\n")
    with pytest.raises(InputError, match=message):
        read_lexicon(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("en\tde\tcat\tKatze\n", r"must begin with the line 'source_language .* found 'en\\tde"),
        ("", r"must begin with the line .* found ''"),
        (HEADER + "en\tde\tcat\n", r"lexicon.tsv:2 must have 4 columns between tabs; found 3: 'en\\tde\\tcat'"),
        (HEADER + "en\tde\tcat\tKatze\nen\tde\t\tHund\n", r"lexicon.tsv:3 must be a word and its translation"),
        (HEADER + "\nen\tqzz\tcat\tKatze\n", r"lexicon.tsv:3: unknown language 'qzz'"),
        (HEADER + "en\ten\tcat\tCat\n", r"lexicon.tsv:2: source and target language are both en"),
        (HEADER, r"no translations in .*lexicon.tsv"),
    ],
)
def test_a_wrong_table_is_refused_by_name_and_line(tmp_path, content, message):
    path = tmp_path / "lexicon.tsv"
    path.write_text(content, "utf-8")
    with pytest.raises(InputError, match=message):
        read_lexicon(path)


def test_a_missing_lexicon_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"no file .*lexicon.tsv; found nothing in its folder"):
        read_lexicon(tmp_path / "lexicon.tsv")
