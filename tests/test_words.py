"""What counts as a word, and where the words of a query stand in a passage."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, strategies as st

from hybrid_ir.words import _folded, _words, places_of, words_of


@pytest.mark.parametrize(
    ("text", "query", "said"),
    [
        ("Der Rhein endet in der Nordsee.", "Wo endet der RHEIN?", ["Der", "Rhein", "endet", "der"]),
        ("Rheinland", "Rhein", []),  # parts of words are not words
        ("東京都は日本の首都", "東京の首都", ["東京", "の首都"]),  # 東京, の首 and 首都: two of them overlap
        ("แม่น้ำไรน์", "แม่น้ำ", ["แม่น้ำ"]),
        ("STRASSE und Straße", "straße", ["STRASSE", "Straße"]),
        ("Le cafe\u0301, ﬁn", "café fin", ["cafe\u0301", "ﬁn"]),  # NFD, and a ligature
        ("½ litre", "1", ["½"]),  # whose compatibility form is 1⁄2
        ("", "x", []),
        ("nothing", "", []),
    ],
)
def test_words_of_the_query_are_found_where_they_stand(text, query, said):
    assert [text[start:end] for start, end in places_of(text, set(words_of(query)))] == said


@given(st.text())
def test_every_word_of_a_text_is_found_in_it_and_places_are_in_order(text):
    places = places_of(text, set(words_of(text)))
    flat = [at for place in places for at in place]
    assert flat == sorted(set(flat))
    assert all(0 <= at <= len(text) for at in flat)
    if unicodedata.is_normalized("NFKC", text):
        # Apart: a mark that begins a stretch would go onto the letter that ends the one before.
        inside = " ".join(text[start:end] for start, end in places)
        assert "".join(dict.fromkeys("".join(words_of(text)))) == "".join(dict.fromkeys("".join(words_of(inside))))


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("a 京都ーあไทนदीя한"))))
def test_words_are_those_whose_places_are_known(text):
    assert words_of(text) == [found.word for found in _words(_folded(text))]


@given(st.text(alphabet="aßİ\u0301\u0130é½ﬁ가\u1100\u1161\u11a8 京都.Ωǰ"))
def test_odd_letters_have_places(text):
    for start, end in places_of(text, set(words_of(text))):
        assert 0 <= start < end <= len(text)
        assert words_of(text[start:end])
