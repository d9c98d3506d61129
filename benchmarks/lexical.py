"""Searching by words: what it costs beside bm25s, and what it finds beside an encoder, alone and fused.

    python benchmarks/lexical.py speed --xquad XQUAD_R
    python benchmarks/lexical.py quality --xquad XQUAD_R --encoder E5_SMALL --languages ar de en zh --documents 10

`speed` joins sentences of XQuAD-R to passages, and asks for the first ten hits of its questions, a query at a time, of
ours and of bm25s in turn. Both get the same words, and must give the same scores. Ours weighs its counts at each query,
since a deletion changes them; bm25s has computed every word's part of every score when it indexes.

`quality` ranks the sentences of the first articles for their questions, in some languages: by the encoder, by words,
and fused as the service fuses, to a depth of 100. What neither ranking has among its first 100 stands behind, by the
encoder. AP_mono is among the sentences of the question's language, as a search with that language finds them, and
AP_multi in the common pool.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_ir.data import lareqa_collection
from hybrid_ir.lexical import (
    best_rows,
    count_terms,
    fuse,
    make_postings,
    open_postings,
    score_passages,
    write_postings,
    write_statistics,
)
from hybrid_ir.types import Candidate, Collection, Query
from hybrid_ir.words import words_of

K, DEPTH = 10, 100
FUSED: dict[str, dict[str, Any]] = {
    "rrf": {"fusion": "rrf"},
    "weighted .3": {"fusion": "weighted", "weight": 0.3},
    "weighted .1": {"fusion": "weighted", "weight": 0.1},
}


def measure_speed(collection: Collection, passages: int, queries: int) -> dict[str, Any]:
    import bm25s

    rng = np.random.default_rng(0)
    sentences = [candidate.text for candidate in collection.candidates]
    texts = [" ".join(sentences[n] for n in row) for row in rng.integers(len(sentences), size=(passages, 4))]
    asked = [collection.queries[n].text for n in rng.choice(len(collection.queries), size=queries, replace=False)]
    found: dict[str, Any] = {"passages": passages, "characters": sum(map(len, texts))}

    start = time.perf_counter()
    words = [words_of(text) for text in texts]
    found["words_s"] = time.perf_counter() - start
    start = time.perf_counter()
    made = make_postings(texts)
    statistics = count_terms([(made, None)])
    found["make_s"] = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        start = time.perf_counter()
        write_postings(folder, made)
        write_statistics(folder / "counts.arrow", statistics)
        found["write_s"] = time.perf_counter() - start
        sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
        found |= {"megabytes": {name: round(size / 1e6, 1) for name, size in sizes.items()}, "terms": len(made.terms)}
        found["postings"] = len(made.rows)
        found |= _compare(open_postings(folder), statistics, words, asked, bm25s)
    return found


def _compare(postings: Any, statistics: Any, words: list[list[str]], asked: Sequence[str], bm25s: Any) -> dict:
    vocabulary: dict[str, int] = {}
    ids = [[vocabulary.setdefault(word, len(vocabulary)) for word in some] for some in words]
    peer = bm25s.BM25(k1=1.2, b=0.75, method="lucene")
    start = time.perf_counter()
    peer.index((ids, vocabulary), create_empty_token=False, show_progress=False)
    index_s = time.perf_counter() - start

    def ours(text: str) -> tuple[np.ndarray, np.ndarray]:
        scores = score_passages(postings, statistics.query(text))
        rows = best_rows(scores, K)
        return rows, scores[rows]

    def theirs(text: str) -> tuple[np.ndarray, np.ndarray]:
        known = [vocabulary[word] for word in words_of(text) if word in vocabulary]
        scores = peer.get_scores_from_ids(known)
        rows = np.argpartition(-scores, K)[:K]  # as bm25s' own topk does
        rows = rows[np.argsort(-scores[rows])]
        return rows, scores[rows]

    times: dict[str, list[float]] = {"ours": [], "bm25s": []}
    differ = 0
    for text in asked[:20]:
        ours(text), theirs(text)
    for text in asked:
        given = {}
        for name, search in (("ours", ours), ("bm25s", theirs)):
            start = time.perf_counter()
            given[name] = search(text)
            times[name].append(time.perf_counter() - start)
        # Ranks whose scores tie to float32 may hold other passages.
        differ += not np.allclose(given["ours"][1], given["bm25s"][1][: len(given["ours"][1])], rtol=1e-5)
    ms = {name: np.percentile(np.asarray(some) * 1e3, (50, 90, 99)).round(2).tolist() for name, some in times.items()}
    ratio = np.median(np.asarray(times["ours"]) / np.asarray(times["bm25s"]))
    return {
        "bm25s_index_s": index_s, "ms_p50_p90_p99": ms, "median_ratio": round(float(ratio), 2),
        "queries": len(asked), "answers_that_differ": differ,
    }  # fmt: skip


class Rankings:
    """Scores of all candidates for a query, by its row: of the encoder and of words."""

    def __init__(
        self, queries: Sequence[Query], candidates: Sequence[Candidate], vectors: Sequence[np.ndarray]
    ) -> None:
        self._queries, self._vectors = queries, vectors
        self._postings = make_postings(candidate.text for candidate in candidates)
        self._statistics = count_terms([(self._postings, None)])

    def dense(self, row: int) -> np.ndarray:
        return self._vectors[1] @ self._vectors[0][row]

    def lexical(self, row: int) -> np.ndarray:
        return score_passages(self._postings, self._statistics.query(self._queries[row].text))

    def fused(self, row: int, pool: np.ndarray, how: dict[str, Any]) -> np.ndarray:
        """(pool,) scores of the candidates in the pool."""
        dense, lexical = self.dense(row)[pool], self.lexical(row)[pool]
        lists = [
            [(int(n), float(scores[n])) for n in best_rows(scores + above, DEPTH)]
            for scores, above in ((dense, np.float32(2)), (lexical, np.float32(0)))
        ]
        scores = dense - 10
        for one in fuse(lists[0], lists[1], **how):
            scores[one.passage] = one.score
        return scores


def measure_quality(
    collection: Collection, encoder: str, languages: Sequence[str], documents: int, kept: Path | None
) -> dict[str, Any]:
    first = set(list(dict.fromkeys(one.document for one in collection.candidates))[:documents])
    candidates = [one for one in collection.candidates if one.document in first and one.language in languages]
    groups = {group for one in candidates for group in one.group_ids}
    queries = [query for query in collection.queries if query.group_id in groups and query.language in languages]
    rankings = Rankings(queries, candidates, _vectors(encoder, queries, candidates, kept))
    language_of = np.asarray([candidate.language for candidate in candidates])
    right: dict[str, list[int]] = {}
    for n, candidate in enumerate(candidates):
        for group in candidate.group_ids:
            right.setdefault(group, []).append(n)
    every = np.arange(len(candidates))
    pools = {language: np.flatnonzero(language_of == language) for language in languages}
    found: dict[Any, Any] = {}
    for row, query in enumerate(queries):
        for name, pool in (("mono", pools[query.language]), ("multi", every)):
            relevant = np.isin(pool, right[query.group_id])
            ranked = {"dense": rankings.dense(row)[pool], "lexical": rankings.lexical(row)[pool]}
            ranked |= {how: rankings.fused(row, pool, asked) for how, asked in FUSED.items()}
            for how, scores in ranked.items():
                found.setdefault((how, name), {}).setdefault(query.language, []).append(_ap(scores, relevant))
    counts = {"queries": len(queries), "candidates": len(candidates), "documents": len(first)}
    return counts | {
        f"{how} AP_{name}": {
            "mean": round(float(np.mean([np.mean(values) for values in by.values()])), 3),
            **{language: round(float(np.mean(by[language])), 3) for language in languages},
        }
        for (how, name), by in found.items()
    }


def _ap(scores: np.ndarray, relevant: np.ndarray) -> float:
    from hybrid_ir.evaluation.measures import average_precision, relevant_positions

    return float(average_precision(relevant_positions(scores[None], relevant[None]))[0])


def _vectors(
    encoder: str, queries: Sequence[Query], candidates: Sequence[Candidate], kept: Path | None
) -> list[np.ndarray]:
    from hybrid_ir.encoders import encode, load_encoder

    if kept is not None and kept.exists():
        return [np.load(kept)[role] for role in ("query", "document")]
    model = load_encoder(encoder)
    texts = {"query": [query.text for query in queries], "document": [one.text for one in candidates]}
    vectors = {role: encode(model, some, role=role) for role, some in texts.items()}
    if kept is not None:
        np.savez(kept, **vectors)
    return [vectors["query"], vectors["document"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=("speed", "quality"))
    parser.add_argument("--xquad", required=True, help="The folder of XQuAD-R.")
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--encoder")
    parser.add_argument("--languages", nargs="+", help="All by default.")
    parser.add_argument("--documents", type=int, default=48, help="Articles, the first.")
    parser.add_argument("--vectors", type=Path, help="A .npz to keep the vectors in, or to take them from.")
    given = parser.parse_args()
    collection = lareqa_collection(given.xquad, "xquad-r")
    if given.work == "speed":
        found = measure_speed(collection, given.passages, given.queries)
    else:
        if given.encoder is None:
            parser.error("quality needs --encoder")
        found = measure_quality(
            collection, given.encoder, given.languages or collection.languages, given.documents, given.vectors
        )
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
