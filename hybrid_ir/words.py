"""What counts as a word, in any language: for BM25, and to show where a query's words stand in a passage.

In: a text. Out: its words as they are compared, and where they stand in it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterator
from itertools import pairwise
from operator import add
from typing import NamedTuple

import regex

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
"""Scripts that put no space between words."""
_RUN = regex.compile(rf"(?P<unspaced>[{_UNSPACED}]+)|[^\W{_UNSPACED}]+")
_WORD, _PARTS = regex.compile(r"\w+"), regex.compile(rf"([{_UNSPACED}]+)|([^\W{_UNSPACED}]+)")
_HAS_UNSPACED = regex.compile(rf"[{_UNSPACED}]")
_CLUSTER = regex.compile(r"\X")


class Word(NamedTuple):
    """A word as it is compared, and the characters from `start` to before `end` that it is of."""

    word: str
    start: int
    end: int


def words_of(text: str) -> list[str]:
    r"""Casefolded words, and pairs of neighbouring characters where words have no spaces.

    `words_of("Tokyo 2020は東京で")` is ["tokyo", "2020", "は東", "東京", "京で"]. Letters are compared without case and
    in their compatibility form (NFKC). A word is a run of letters, digits and marks (Unicode's \w). In Chinese,
    Japanese, Thai, Lao, Khmer and Burmese a run is cut into overlapping bigrams (Nie et al., "On the Use of Words and
    N-grams for Chinese Information Retrieval", IRAL 2000); one character alone is a token. There is no stemming and
    there are no stop words, as no kept list has all languages.
    """
    folded = _folded(text)
    # Where they stand is not asked here: without it this takes a third of the time, of which an index has hours.
    if _HAS_UNSPACED.search(folded) is None:
        return _WORD.findall(folded)
    words: list[str] = []
    for run, word in _PARTS.findall(folded):
        if word or len(run) == 1:
            words.append(word or run)
        else:
            words += map(add, run, run[1:])
    return words


def places_of(text: str, words: Collection[str]) -> list[tuple[int, int]]:
    """(start, end) of each stretch of the text that is of these words, which are as `words_of` gives them.

    Characters are code points, and `end` is the first behind the stretch. Words that overlap or touch, as bigrams do,
    are one stretch. A letter and the marks on it stay together.
    """
    folded, ends = _folded(text), None
    # As a rule a letter is folded to one letter, and then places are the same.
    if len(folded) != len(text) or not unicodedata.is_normalized("NFKC", text):
        clusters = [(_folded(found.group()), found.span()) for found in _CLUSTER.finditer(text)]
        folded = "".join(piece for piece, _ in clusters)
        ends = [span for piece, span in clusters for _ in piece]
    places: list[tuple[int, int]] = []
    for found in _words(folded):
        if found.word not in words:
            continue
        start, end = (found.start, found.end) if ends is None else (ends[found.start][0], ends[found.end - 1][1])
        if places and start <= places[-1][1]:
            places[-1] = places[-1][0], max(end, places[-1][1])
        else:
            places.append((start, end))
    return places


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _words(folded: str) -> Iterator[Word]:
    for found in _RUN.finditer(folded):
        run, start = found.group(), found.start()
        if found["unspaced"] is None or len(run) == 1:
            yield Word(run, start, found.end())
        else:
            for n, pair in enumerate(pairwise(run), start):
                yield Word("".join(pair), n, n + 2)
