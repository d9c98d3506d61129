"""The embedded data set: how much there is, that it is true where a reader can check it, and that it reads natively."""

import re
import tomllib
from collections import Counter
from importlib import resources

import pytest

from hybrid_ir.data.atlas.names import LANGUAGES
from hybrid_ir.data.sources.atlas import read_atlas, subject_of

SCRIPTS = {
    "ar": r"[\u0600-\u06ff]",
    "el": r"[\u0370-\u03ff]",
    "hi": r"[\u0900-\u097f]",
    "ru": r"[\u0400-\u04ff]",
    "th": r"[\u0e00-\u0e7f]",
    "zh": r"[\u4e00-\u9fff]",
}
QUESTION_MARKS = {"ar": "؟", "el": ";", "zh": "？"}


@pytest.fixture(scope="module")
def groups():
    return {group.group_id: group for group in read_atlas()}


def relation_of(group_id):
    return group_id.partition("/")[0]


def test_there_are_2500_groups_in_eight_relations_or_more(groups):
    relations = Counter(map(relation_of, groups))
    assert sum(relations.values()) >= 2500
    assert len(relations) >= 8
    assert min(relations.values()) >= 100


def test_every_group_has_all_eleven_languages_and_one_passage_id(groups):
    assert len(LANGUAGES) == 11
    for group_id, group in groups.items():
        assert tuple(group.queries) == tuple(group.passages) == LANGUAGES
        assert {passage.doc_id for (passage,) in group.passages.values()} == {f"atlas/{group_id}"}
        assert group.document == group_id
        assert not group.negatives


def test_ids_are_unique_and_two_runs_agree(groups):
    again = list(read_atlas())
    assert len(again) == len(groups)
    assert again == list(groups.values())


def test_subject_is_what_follows_the_relation():
    assert subject_of("currency/FR") == "FR"
    assert subject_of("city_territory/America_New_York") == "America_New_York"


def test_most_territories_have_several_relations(groups):
    relations = Counter(subject_of(group_id) for group_id in groups if re.search(r"/[A-Z]{2}$", group_id))
    assert sum(n >= 4 for n in relations.values()) >= 150


def test_no_text_is_empty_or_has_a_brace_left(groups):
    for group in groups.values():
        for text in [*group.queries.values(), *(passage.text for (passage,) in group.passages.values())]:
            assert text.strip() == text != ""
            assert not re.search(r"[{}]|None|  ", text)


@pytest.mark.parametrize(
    ("group_id", "answers"),
    [
        ("currency/FR", {"de": "Euro", "en": "Euro", "hi": "यूरो", "ru": "евро", "tr": "Euro", "zh": "欧元"}),
        ("currency/JP", {"ar": "ين ياباني", "en": "Japanese Yen", "es": "yen japonés", "vi": "yên Nhật", "zh": "日元"}),
        ("most_spoken_language/BR", {"de": "Portugiesisch", "en": "Portuguese", "es": "portugués", "zh": "葡萄牙语"}),
        ("most_spoken_language/BR", {"ar": "البرتغالية", "ru": "португальский язык", "vi": "tiếng Bồ Đào Nha"}),
        ("official_language/AT", {"en": "German", "es": "alemán", "tr": "Almanca", "zh": "德语"}),
        ("second_language/CA", {"en": "French", "de": "Französisch", "ru": "французский"}),
        ("currency_year/HR", dict.fromkeys(LANGUAGES, "2023")),
        ("currency_year/SK", dict.fromkeys(LANGUAGES, "2009")),
        ("country_code/GR", dict.fromkeys(LANGUAGES, "GR")),
        ("currency_code/SEK", dict.fromkeys(LANGUAGES, "SEK")),
        ("first_day_of_week/US", {"en": "Sunday", "es": "domingo", "ru": "воскресенье", "zh": "星期日"}),
        ("first_day_of_week/DE", {"de": "Montag", "el": "Δευτέρα", "hi": "सोमवार", "th": "วันจันทร์"}),
        ("time_zone/IT", {"en": "Central European Time", "vi": "giờ Trung Âu", "zh": "中欧时间"}),
        ("language_script/uk", {"en": "Cyrillic", "ru": "кириллица", "vi": "chữ Kirin", "zh": "西里尔文"}),
        ("language_script/fi", {"en": "Latin", "es": "latino", "th": "อักษรละติน", "ar": "الكتابة اللاتينية"}),
        ("language_home/cy", {"en": "the United Kingdom", "de": "Vereinigten Königreich", "zh": "英国"}),
        ("city_territory/Asia_Tokyo", {"en": "Japan", "el": "Ιαπωνία", "th": "ญี่ปุ่น"}),
        ("city_time_zone/America_New_York", {"en": "Eastern Time", "zh": "北美东部时间"}),
    ],
)
def test_the_answer_is_in_the_passage_and_not_in_the_question(groups, group_id, answers):
    group = groups[group_id]
    for lang, answer in answers.items():
        assert answer in group.passages[lang][0].text
        assert answer not in group.queries[lang]


def test_the_subject_is_in_the_question_and_in_the_passage(groups):
    names = {"ar": "سويسرا", "el": "Ελβετία", "hi": "स्विट्ज़रलैंड", "ru": "Швейцария", "tr": "İsviçre", "zh": "瑞士"}
    about = [group for group_id, group in groups.items() if subject_of(group_id) == "CH"]
    assert len(about) >= 4
    for group in about:
        for lang, name in names.items():
            assert name in group.queries[lang]
            assert name in group.passages[lang][0].text


def test_names_take_the_articles_of_their_language(groups):
    netherlands, us = groups["currency/NL"], groups["currency/US"]
    assert "in the Netherlands" in netherlands.queries["en"]
    assert "in den Niederlanden" in netherlands.queries["de"]
    assert "en los Países Bajos" in netherlands.queries["es"]
    assert "in the United States" in us.queries["en"]
    assert "en Estados Unidos" in us.queries["es"]


def test_the_year_of_the_currency_does_not_name_the_currency(groups):
    assert "Euro" not in groups["currency_year/HR"].passages["en"][0].text
    assert "евро" not in groups["currency_year/HR"].passages["ru"][0].text


def test_each_language_is_in_its_script_without_latin_letters_but_codes(groups):
    for group_id, group in groups.items():
        for lang, script in SCRIPTS.items():
            for text in (group.queries[lang], group.passages[lang][0].text):
                assert re.search(script, text), (group_id, text)
                if not relation_of(group_id).endswith("_code"):
                    assert not re.search("[A-Za-z]", text), (group_id, text)


def test_each_language_asks_with_its_own_question_mark(groups):
    for group in groups.values():
        for lang, query in group.queries.items():
            if lang == "th":
                assert not re.search(r"[?？.]$", query)
            else:
                assert query.endswith(QUESTION_MARKS.get(lang, "?"))
        assert group.queries["es"].startswith("¿")


def test_each_language_ends_a_passage_in_its_own_way(groups):
    for group in groups.values():
        assert group.passages["hi"][0].text.endswith("।")
        assert group.passages["zh"][0].text.endswith("。")
        assert not group.passages["th"][0].text.endswith((".", "。"))


def test_no_two_groups_ask_the_same_question(groups):
    for lang in LANGUAGES:
        repeated = [query for query, n in Counter(g.queries[lang] for g in groups.values()).items() if n > 1]
        assert not repeated


def test_no_two_groups_have_the_same_passage_text(groups):
    for lang in LANGUAGES:
        assert len({group.passages[lang][0].text for group in groups.values()}) == len(groups)


def test_each_relation_has_two_wordings_of_question_and_passage_in_every_language():
    templates = tomllib.loads(resources.files("hybrid_ir.data.atlas").joinpath("templates.toml").read_text("utf-8"))
    for relation in templates.values():
        assert tuple(relation) == LANGUAGES
        for forms in relation.values():
            assert len(set(forms["q"])) == len(set(forms["p"])) == 2


def test_both_wordings_are_used(groups):
    questions = [group.queries["en"] for group_id, group in groups.items() if relation_of(group_id) == "currency"]
    assert any(question.startswith("What currency is legal tender") for question in questions)
    assert any(question.startswith("Which currency do people pay with") for question in questions)
