"""A lexical search of one shard. In: an open shard, and a query whose words have weights. Out: its best passages.

It is exact, with whatever codec and filter: each word's passages are scored, and those that the filter leaves stay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hybrid_ir.index.query import Found, ShardQuery
from hybrid_ir.lexical import best_rows, score_passages

if TYPE_CHECKING:
    from hybrid_ir.index.shard import Shard


def found_by_words(shard: Shard, query: ShardQuery) -> Found:
    """The `query.k` best passages with a word of the query, by BM25, then by global id."""
    if shard.postings is None or query.words is None:
        raise ValueError(f"shard {shard.entry.name} was asked for words, and has none")
    scores = score_passages(shard.postings, query.words)
    living = shard.living if query.where is None else None  # a filter's rows live
    rows = best_rows(scores, query.k, shard.ids, shard.passing(query.languages, query.where), living)
    return Found(scores[rows], scores[rows], shard.ids[rows], rows)
