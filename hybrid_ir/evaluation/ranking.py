"""Ranking a stream of passages for a few queries: the best of each query kept, written as a TREC run, measured.

In: unit vectors of queries, passages from an iterator of any length. Out: a run, its file, measures by query. Memory
holds one chunk of passages with its scores, and the best `depth` passages of each query; never the corpus.

A passage that is cut into pieces has the score of its best one.

Shape legend: `Q` queries, `C` passages of a chunk, or their pieces, `D` dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from hybrid_ir.evaluation.test_sets.judged_set import LanguageText
from hybrid_ir.types import InputError, Passage

Encode = Callable[[Sequence[str], str | Sequence[str] | None], np.ndarray]
"""Texts, and the language of all or of each, or None -> (texts, D) float32 unit vectors, in their order."""
Cut = Callable[[Sequence[str], Sequence[str]], np.ndarray]
"""Texts and their languages -> (pieces, 3), as `cut_into_pieces` gives them."""

Run = Mapping[str, Mapping[str, float]]
"""query_id -> doc_id -> score."""

Ranked = TypeVar("Ranked", Passage, LanguageText)

CHUNK = 16384  # passages encoded at a time: what the encoder sorts by length
MAX_SCORES = 1 << 24  # scores held at once: 64 MiB of float32


class BestPassages:
    """The best `depth` passages of each query so far. Of equal scores at the cut those of the higher doc_id stay, as
    trec_eval ranks them, so that what is kept does not depend on the order in which passages come."""

    def __init__(self, n_queries: int, depth: int) -> None:
        self._depth = depth
        self._scores = [np.empty(0, np.float32) for _ in range(n_queries)]
        self._doc_ids = [np.empty(0, object) for _ in range(n_queries)]

    def add(self, scores_QC: Iterable[np.ndarray], doc_ids: np.ndarray) -> None:
        for i, scores_C in enumerate(scores_QC):
            full = len(self._scores[i]) == self._depth
            # As good as the last: most passages of a long corpus fail here, before anything is sorted.
            found = np.flatnonzero(scores_C >= self._scores[i][-1]) if full else np.arange(len(scores_C))
            if len(found):
                self._keep_best(i, scores_C[found], doc_ids[found])

    def merge(self, other: BestPassages) -> None:
        """Add what another pool kept of the same queries."""
        for i, (scores, doc_ids) in enumerate(zip(other._scores, other._doc_ids, strict=True)):
            self._keep_best(i, scores, doc_ids)

    def _keep_best(self, i: int, scores: np.ndarray, doc_ids: np.ndarray) -> None:
        scores = np.concatenate([self._scores[i], scores])
        names = np.concatenate([self._doc_ids[i], doc_ids])
        if len(scores) > self._depth:  # of the many that a first chunk brings, only those that may stay are sorted
            least = np.partition(scores, -self._depth)[-self._depth]
            scores, names = scores[scores >= least], names[scores >= least]
        order = np.lexsort((names, scores))[::-1][: self._depth]
        self._scores[i], self._doc_ids[i] = scores[order], names[order]

    def run(self, query_ids: Sequence[str]) -> Run:
        """Raises InputError for a passage that stands twice among one query's best."""
        run = {}
        for query_id, doc_ids, scores in zip(query_ids, self._doc_ids, self._scores, strict=True):
            run[query_id] = dict(zip(doc_ids.tolist(), scores.tolist(), strict=True))
            if len(run[query_id]) < len(doc_ids):
                twice = next(d for i, d in enumerate(doc_ids) if d in doc_ids[:i])
                raise InputError(f"passage {twice!r} stands more than once in the corpus; remove the copies")
        return run


def rank_passages(
    query_vectors_QD: np.ndarray,
    passages: Iterable[Ranked],
    encode_passage: Encode,
    *,
    depth: int,
    language: str | None = None,
    chunk: int = CHUNK,
) -> tuple[BestPassages, int]:
    """The best `depth` passages of every query by dot product, and how many passages there were. `language` is that of
    all passages, where they do not say it themselves.

    Raises InputError for vectors that are not finite or do not fit. The iterator is read once, `chunk` at a time.
    """
    best, n_passages = BestPassages(len(query_vectors_QD), depth), 0
    in_language: Encode = lambda texts, own: encode_passage(texts, own if language is None else language)  # noqa: E731
    for part, vectors_CD, _ in _encoded(query_vectors_QD, passages, in_language, chunk):
        n_passages += len(part)
        best.add(_scores(query_vectors_QD, vectors_CD), np.array([_id_of(passage) for passage in part], object))
    return best, n_passages


def rank_pools(
    query_vectors_QD: np.ndarray,
    passages: Iterable[LanguageText],
    encode_passage: Encode,
    *,
    depth: int,
    cut: Cut | None = None,
    chunk: int = CHUNK,
) -> dict[str, BestPassages]:
    """As `rank_passages`, apart for the passages of each language: {language: the best `depth` of every query}.

    A passage is encoded once, or with `cut` each of its pieces. The best of all languages are the best of these,
    merged.
    """
    pools: dict[str, BestPassages] = {}
    for part, vectors_CD, owner_C in _encoded(query_vectors_QD, passages, encode_passage, chunk, cut):
        doc_ids = np.array([passage.text_id for passage in part], object)
        languages = np.array([passage.language for passage in part])
        for language in sorted(set(languages.tolist())):
            rows = np.flatnonzero(languages == language)
            pool = pools.setdefault(language, BestPassages(len(query_vectors_QD), depth))
            columns = np.flatnonzero(np.isin(owner_C, rows))
            starts = np.searchsorted(owner_C[columns], rows)
            scores = _scores(query_vectors_QD, vectors_CD[columns])
            pool.add((np.maximum.reduceat(scores_C, starts) for scores_C in scores), doc_ids[rows])
    return pools


def _encoded(
    query_vectors_QD: np.ndarray,
    passages: Iterable[Ranked],
    encode_passage: Encode,
    chunk: int,
    cut: Cut | None = None,
) -> Iterator[tuple[list[Ranked], np.ndarray, np.ndarray]]:
    """`chunk` passages at a time, with their checked vectors, and the place in the chunk of each vector's passage."""
    _check_finite("query", query_vectors_QD)
    stream = iter(passages)
    while part := list(islice(stream, chunk)):
        texts, owner_C = [passage.text for passage in part], np.arange(len(part))
        languages = [passage.language if isinstance(passage, LanguageText) else "" for passage in part]
        if cut is not None:
            pieces = cut(texts, languages)
            texts, owner_C = [texts[row][start:end] for row, start, end in pieces.tolist()], pieces[:, 0]
            languages = [languages[row] for row in owner_C.tolist()]
        vectors_CD = encode_passage(texts, languages)
        _check_finite("passage", vectors_CD)
        if vectors_CD.shape != (len(texts), query_vectors_QD.shape[1]):
            raise InputError(
                f"{len(texts)} passages have vectors of shape {vectors_CD.shape}, queries of {query_vectors_QD.shape}; "
                "encode both with the same checkpoint"
            )
        yield part, vectors_CD, owner_C


def measure_run(qrels: Mapping[str, Mapping[str, int]], run: Run, measures: Sequence[str]) -> dict[str, np.ndarray]:
    """{measure: value of each query of `qrels`, in their order}, by `ir_measures` (trec_eval's own code).

    `measures` are its names, such as nDCG@10, RR@10, R@100, AP and AP@20. Equal scores are ordered as trec_eval does,
    by descending doc_id. A query that the run lacks scores 0.
    """
    import ir_measures

    parsed = {ir_measures.parse_measure(name): name for name in measures}
    row = {query_id: i for i, query_id in enumerate(qrels)}
    values = {name: np.zeros(len(row)) for name in measures}
    for query_id, measure, value in ir_measures.pytrec_eval.iter_calc(list(parsed), qrels, run):
        values[parsed[measure]][row[query_id]] = value
    for measure, name in parsed.items():
        # Asked for RR@10, trec_eval's code gives RR of the whole ranking (ir_measures 0.4.3).
        if measure.NAME == "RR" and "@" in name:
            values[name][values[name] < 1 / measure["cutoff"] - 1e-9] = 0
    return values


def write_run(path: Path, run: Run, tag: str = "hybrid-ir") -> None:
    """A TREC run file: `query_id Q0 doc_id position score tag`, the best first, equal scores as trec_eval orders them.

    Raises InputError for an id with white space in it, which the format cannot hold.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for query_id, scores in run.items():
            ranked = sorted(scores.items(), key=lambda pair: pair[0], reverse=True)
            ranked.sort(key=lambda pair: pair[1], reverse=True)
            for position, (doc_id, score) in enumerate(ranked, start=1):
                if doc_id.split() != [doc_id] or query_id.split() != [query_id]:
                    raise InputError(f"query {query_id!r} or passage {doc_id!r} has white space in its id; rename it")
                # Nine digits are a float32 exactly, so that the file has the ties that were measured, and no others.
                stream.write(f"{query_id} Q0 {doc_id} {position} {score:.9g} {tag}\n")


def cross_off(absent: set[str], passages: Iterable[Ranked]) -> Iterator[Ranked]:
    """The passages as they come, each of which is no longer `absent`."""
    for passage in passages:
        absent.discard(_id_of(passage))
        yield passage


def _id_of(passage: Passage | LanguageText) -> str:
    return passage.text_id if isinstance(passage, LanguageText) else passage.doc_id


def _scores(query_vectors_QD: np.ndarray, vectors_CD: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of the score matrix, computed a block of queries at a time to bound memory."""
    vectors_DC = np.asarray(vectors_CD, np.float32).T
    block = max(1, MAX_SCORES // vectors_DC.shape[1])
    for start in range(0, len(query_vectors_QD), block):
        yield from np.asarray(query_vectors_QD[start : start + block], np.float32) @ vectors_DC


def _check_finite(kind: str, vectors: np.ndarray) -> None:
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise InputError(
            f"{kind} vectors of shape {vectors.shape} hold NaN or infinity; the checkpoint is damaged or the encoder "
            "overflowed: encode in float32 or bfloat16, or take an earlier checkpoint"
        )
