"""A lexical search of one shard. In: an open shard, and a query whose words have weights. Out: its best passages.

It is exact, with whatever codec and filter: each word's passages are scored, and those that the filter leaves stay.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

import numpy as np

from hybrid_ir.index.query import Found, ShardQuery
from hybrid_ir.lexical import best_rows, score_passages
from hybrid_ir.words import words_of

if TYPE_CHECKING:
    from hybrid_ir.index.shard import Shard


def found_by_words(shard: Shard, query: ShardQuery) -> Found:
    """The `query.k` best passages with a word of the query, by BM25, then by global id."""
    if shard.postings is None or query.words is None:
        raise ValueError(f"shard {shard.entry.name} was asked for words, and has none")
    scores = score_passages(shard.postings, query.words)
    living = shard.living if query.where is None else None  # a filter's rows live
    rows = best_rows(scores, query.k, shard.ids, shard.passing(query.languages, query.where), living)
    spans = None
    if query.pieces and shard.pieces is not None:
        words, spans = {term for term, _ in query.words.weights}, np.full((len(rows), 2), -1, np.int32)
        for place, row in enumerate(rows[: query.pieces].tolist()):
            spans[place] = _piece_of(shard, row, words)
    return Found(scores[rows], scores[rows], shard.ids[rows], rows, spans)


def _piece_of(shard: Shard, row: int, words: AbstractSet[str]) -> np.ndarray:
    """(2,): first character of the passage's piece that has most of the words, of several the first, and the character
    after its last. A passage is scored as a whole, so this is where its words are, and no part of its score."""
    assert shard.pieces is not None
    spans = shard.pieces.spans(np.arange(shard.pieces.starts[row], shard.pieces.starts[row + 1]))
    if len(spans) == 1:
        return spans[0]
    text = shard.passages[row].text
    return spans[np.argmax([len(words & {*words_of(text[start:end])}) for start, end in spans.tolist()])]
