"""Where long texts are cut into overlapping pieces that an encoder reads whole.

In: texts, how an encoder reads them, and how many tokens a piece may have. Out: pieces, as places in the texts.

A piece is a substring of its text. It begins and ends where a word does, so that its tokens are those that it has in
the text. Where a language puts no spaces between words, or a word is longer than a piece, it begins and ends where a
token does, but never before a combining mark.

Shape legend: `P` pieces, `T` tokens of one text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from hybrid_ir.encoders.tokens import TextReader
from hybrid_ir.types import OUTER_SPACE, InputError

TEXTS_AT_ONCE = 256
"""Tokens and their places take some hundred bytes a token while a text is cut."""


def cut_into_pieces(
    reader: TextReader,
    texts: Sequence[str],
    languages: Sequence[str] | None = None,
    *,
    tokens: int,
    overlap: int,
    role: str = "document",
) -> np.ndarray:
    """(P, 3) int32, in order: the number of a text, its piece's first character, and the character after its last.

    A text of at most `tokens` tokens, the prefix of `role` and special tokens included, is one piece: all of it. Of a
    longer one each piece has at most so many, and the last `overlap` of the piece before, or fewer where words say so.
    All characters of a text but space are in a piece. `languages`: of each text, where its prefix depends on it. Raises
    InputError for an encoder that reads fewer tokens, or whose tokenizer does not say where its tokens stand.
    """
    if tokens > reader.max_tokens:
        raise InputError(
            f"index.pieces.tokens={tokens} is more than the {reader.max_tokens} tokens that the encoder reads; set it "
            f"to {reader.max_tokens} or less"
        )
    if not getattr(reader.tokenizer, "is_fast", False):
        raise InputError(
            f"the encoder's tokenizer ({type(reader.tokenizer).__name__}) does not say where its tokens stand in a "
            "text, so that no text can be cut into pieces; take an encoder that has a tokenizer.json, or set "
            "index.pieces.tokens=null"
        )
    prefix = reader.prefix(role, languages)
    prefixes = [prefix] * len(texts) if isinstance(prefix, str) else prefix
    found: list[tuple[int, int, int]] = []
    # Also of languages without a text here: one that leaves no room is refused before anything is encoded.
    for before in {text for name, text in reader.prefixes.items() if name == role or name.startswith(f"{role}-")}:
        own = [n for n, each in enumerate(prefixes) if each == before]
        found += _cut_behind(reader, own, texts, before, tokens, overlap)
    return np.asarray(sorted(found), dtype=np.int32).reshape(-1, 3)


def _cut_behind(
    reader: TextReader, numbers: Sequence[int], texts: Sequence[str], prefix: str, tokens: int, overlap: int
) -> list[tuple[int, int, int]]:
    """The pieces of the texts of these numbers, which are read behind one prefix."""
    around = len(reader.read_behind([""], prefix)[0])
    if (room := tokens - around) <= 2 * overlap:
        raise InputError(
            f"index.pieces.tokens={tokens} leaves {max(0, room)} for a piece's own words beside the prefix and special "
            f"tokens, and index.pieces.overlap={overlap} must be less than half of that; set more tokens or less "
            "overlap"
        )
    narrow = TextReader(reader.tokenizer, reader.prefixes, tokens, reader.control_tokens)
    found = []
    for start in range(0, len(numbers), TEXTS_AT_ONCE):
        part = numbers[start : start + TEXTS_AT_ONCE]
        cuts = _cut(narrow, [texts[n] for n in part], room, overlap, prefix)
        found += [(n, first, end) for n, spans in zip(part, cuts, strict=True) for first, end in spans]
    return found


def _cut(narrow: TextReader, texts: Sequence[str], room: int, overlap: int, prefix: str) -> list[list[tuple[int, int]]]:
    """The pieces of each text, which `narrow` reads whole: it reads as many tokens as a piece may have.

    Alone, a piece may have more tokens than it has within its text, where it was cut within a word. One that has too
    many is cut once more.
    """
    cuts = [[(0, len(text))] for text in texts]
    long = np.flatnonzero(narrow.read_behind(texts, prefix).cut).tolist()
    if not long:
        return cuts
    for n, places in zip(long, _places(narrow, [texts[n] for n in long]), strict=True):
        cuts[n] = _spans(texts[n], places, room, overlap)
    pieces = [(n, first, end) for n in long for first, end in cuts[n]]
    too_long = narrow.read_behind([texts[n][first:end] for n, first, end in pieces], prefix).cut.tolist()
    smaller = max(2 * overlap + 1, room * 3 // 4)
    again = {piece for piece, is_long in zip(pieces, too_long, strict=True) if is_long and smaller < room}
    for n in {n for n, _, _ in again}:
        cuts[n] = [
            part
            for first, end in cuts[n]
            for part in (
                _within(narrow, texts[n], first, end, smaller, overlap, prefix)
                if (n, first, end) in again
                else [(first, end)]
            )
        ]
    return cuts


def _within(
    narrow: TextReader, text: str, first: int, end: int, room: int, overlap: int, prefix: str
) -> list[tuple[int, int]]:
    (spans,) = _cut(narrow, [text[first:end]], room, overlap, prefix)
    return [(first + a, first + b) for a, b in spans]


def _places(reader: TextReader, texts: Sequence[str]) -> list[np.ndarray]:
    """(T, 2) of each text: the first character of each token, and the character after its last."""
    plain = [reader.plain(text) for text in texts]
    read: Any = reader.tokenizer(
        plain,
        add_special_tokens=False,
        truncation=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,  # it would warn of every long text
    )
    places = []
    for text, said, offsets in zip(texts, plain, read["offset_mapping"], strict=True):
        at = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
        places.append(at if said == text else _origins(said, text)[at])
    return places


def _origins(plain: str, text: str) -> np.ndarray:
    """(len(plain) + 1,): where each character of `TextReader.plain` stands in the text, which has no space around it
    taken off, and no space within its control tokens."""
    lead = len(text) - len(text.lstrip(OUTER_SPACE))
    origins, at = np.empty(len(plain) + 1, dtype=np.int64), lead
    for n, character in enumerate(plain):
        origins[n] = at
        at += at < len(text) and text[at] == character
    origins[len(plain)] = at
    return origins


def _spans(text: str, places: np.ndarray, room: int, overlap: int) -> list[tuple[int, int]]:
    """The pieces of one text, of at most `room` tokens each."""
    n = len(places)
    if n <= room:
        return [(0, len(text))]
    starts, words = _cut_points(text, places)
    spans, first = [], 0
    while first + room < n:
        # A piece is more than half full, and longer than what the next one has of it.
        least, most = first + max(overlap, room // 2) + 1, first + room
        end = _last(words, least, most) or _last(starts, least, most)
        if end is None:  # characters of very many tokens each
            end = next((j for j in range(most + 1, n) if starts[j] >= 0), n)
        spans.append((_at(starts, first), int(starts[end]) if end < n else len(text)))
        if end == n:
            return _without_space(text, spans)
        back = max(first + 1, end - overlap)
        first = _first(words, back, end) or _first(starts, back, end) or end
    return _without_space(text, [*spans, (_at(starts, first), len(text))])


def _cut_points(text: str, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T,) twice: the character at which a piece may begin with this token, or -1, and the same where a word begins."""
    starts, words = np.full(len(places), -1, dtype=np.int64), np.full(len(places), -1, dtype=np.int64)
    before = 0  # the end of the tokens so far
    for n, (start, end) in enumerate(places.tolist()):
        while start < end and text[start].isspace():  # some tokenizers count it to the word behind it
            start += 1
        if start < end and start >= before and unicodedata.category(text[start])[0] != "M":
            starts[n] = start
            if start == 0 or text[start - 1].isspace():
                words[n] = start
        before = max(before, end)
    return starts, words


def _last(points: np.ndarray, least: int, most: int) -> int | None:
    there = np.flatnonzero(points[least : most + 1] >= 0)
    return least + int(there[-1]) if len(there) else None


def _first(points: np.ndarray, least: int, below: int) -> int | None:
    there = np.flatnonzero(points[least:below] >= 0)
    return least + int(there[0]) if len(there) else None


def _at(starts: np.ndarray, token: int) -> int:
    return 0 if token == 0 else int(starts[token])


def _without_space(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [(first, first + len(text[first:end].rstrip(OUTER_SPACE))) for first, end in spans]
