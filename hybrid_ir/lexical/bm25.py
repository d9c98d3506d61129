"""BM25 as Lucene computes it, over any cut of the passages. In: a query, postings, counts of the whole. Out: scores.

A passage's score is the sum over the query's terms of

    times the query has it * ln(1 + (N - n + .5) / (n + .5)) * f / (f + k1 (1 - b + b length / average))

where N is the number of passages, n of those with the term, f how often this one has it (Robertson and Zaragoza, "The
Probabilistic Relevance Framework: BM25 and Beyond", 2009; Lucene's form is that of Kamphuis et al., "Which BM25 Do You
Mean?", ECIR 2020, with exact lengths). Lucene has left out the factor k1 + 1 since version 8: it moves no passage.

N, n and the average are of all living passages, never of a part of them, and each term's part of a score is computed
and added on its own, in float64, in the order of the terms' bytes; the sum is rounded to float32 once. So a passage has
the same score, bit for bit, in whichever part it is and whoever else asks. Equal scores go by id.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from hybrid_ir.lexical.postings import Postings, TermTable
from hybrid_ir.words import words_of

K1, B = 1.2, 0.75
RULE = 1
"""Raised with whatever changes what a term is: postings of another rule do not have a query's terms."""


class LexicalQuery(NamedTuple):
    """What postings are asked. Hashable."""

    weights: tuple[tuple[str, float], ...]
    """Terms that some passage has, in the order of their bytes, and what each is worth: how often the query has it,
    times its idf."""
    average: float
    """Words of a passage, on average."""
    postings: int = 0
    """Of all terms in all parts of the passages: what it takes to answer is about so many times 27 ns (measured)."""


@dataclass(frozen=True)
class Statistics:
    """Counts of all living passages. T terms."""

    passages: int
    words: int
    """Of all passages together."""
    terms: TermTable
    counts: np.ndarray
    """(T,) int64: passages that have each term, one at least."""

    def query(self, text: str) -> LexicalQuery:
        """What to ask of every part of the passages. A word that none of them has is left out: it scores 0."""
        weights, postings = [], 0
        for term, times in sorted(Counter(words_of(text)).items()):
            if (place := self.terms.find(term)) is not None:
                having = int(self.counts[place])
                postings += having
                weights.append((term, times * math.log(1 + (self.passages - having + 0.5) / (having + 0.5))))
        return LexicalQuery(tuple(weights), self.words / max(1, self.passages), postings)


def count_terms(parts: Iterable[tuple[Postings, np.ndarray | None]]) -> Statistics:
    """Count over all parts of the passages: the postings of each, and which of its passages live, (N,) bool or None for
    all. Any cut of the same living passages gives the same."""
    passages = words = 0
    tables: list[pa.Table] = [_table(TermTable(np.zeros(1, np.int64), b""), np.zeros(0, np.int64))]
    for postings, living in parts:
        lengths = postings.lengths if living is None else postings.lengths[living]
        passages, words = passages + len(lengths), words + int(lengths.sum(dtype=np.int64))
        tables.append(_table(postings.terms, postings.counts(living)))
    if len(tables) == 2:
        total = tables[1]
    else:
        every: Any = pa.concat_tables(tables).group_by("term", use_threads=False).aggregate([("count", "sum")])
        total = every.rename_columns(["term", "count"]).sort_by("term")
    counts = total["count"].to_numpy()
    there = counts > 0
    column = total.filter(pa.array(there))["term"].combine_chunks()
    return Statistics(passages, words, terms_of_column(column), counts[there])


def score_passages(postings: Postings, query: LexicalQuery) -> np.ndarray:
    """(N,) float32: the score of every passage of the part; 0 = it has none of the terms."""
    scores = np.zeros(len(postings.lengths))
    a, b = K1 * (1 - B), K1 * B / max(query.average, 1e-300)
    for term, weight in query.weights:
        if (place := postings.terms.find(term)) is None:
            continue
        some = slice(int(postings.starts[place]), int(postings.starts[place + 1]))
        rows = postings.rows[some]
        times = postings.frequencies[some].astype(np.float64)
        below = postings.lengths[rows] * b
        below += a
        below += times
        times *= weight
        times /= below
        scores[rows] += times  # a row stands in a term's postings once
    return scores.astype(np.float32)


def best_rows(
    scores: np.ndarray,
    k: int,
    ids: np.ndarray | None = None,
    among: Sequence[tuple[int, int]] | np.ndarray | None = None,
    living: np.ndarray | None = None,
) -> np.ndarray:
    """Rows of the k best scores above 0, best first, equal ones by id; fewer where fewer are above 0.

    `ids` (N,) are by default the rows themselves; `among`, rows or ranges of them, are those that count, and of these
    the ones that `living`, (N,) bool, says; None = all.
    """
    if isinstance(among, np.ndarray):
        rows = among[scores[among] > 0]
    elif among is None:
        rows = np.flatnonzero(scores)
    else:
        rows = np.concatenate([np.empty(0, np.int64), *(a + np.flatnonzero(scores[a:b]) for a, b in among)])
    if living is not None:
        rows = rows[living[rows]]
    there = scores[rows]
    if len(rows) > k:
        keep = there >= np.partition(there, len(rows) - k)[len(rows) - k]  # with all that tie with the k-th
        rows, there = rows[keep], there[keep]
    return rows[np.lexsort((rows if ids is None else ids[rows], -there))[:k]]


def terms_of_column(column: pa.Array) -> TermTable:
    """Of a large_string column without nulls, as views of its buffers."""
    _, starts, data = column.buffers()
    view = np.frombuffer(starts, np.int64, len(column) + 1, 8 * column.offset) if starts else np.zeros(1, np.int64)
    return TermTable(view, b"" if data is None else memoryview(data))


def column_of_terms(terms: TermTable) -> pa.Array:
    """The same as a column, without a copy."""
    buffers = [None, pa.py_buffer(np.ascontiguousarray(terms.starts)), pa.py_buffer(terms.data)]
    return pa.Array.from_buffers(pa.large_string(), len(terms), buffers)


def _table(terms: TermTable, counts: np.ndarray) -> pa.Table:
    return pa.table({"term": column_of_terms(terms), "count": pa.array(counts, pa.int64())})
