"""What a bonus for the query's own language buys, on XQuAD-R: which languages the first ten hits are in, and whether a
right answer is among them.

    hybrid-ir index --checkpoint E5_SMALL --passages XQUAD_R --out index index.codec=Flat
    python benchmarks/policy.py --index index --xquad XQUAD_R

Each of the questions of every language is searched among all sentences of all languages, by the policy's own code, with
each bonus. A question has a right answer in each language. `own` is the share of the first ten in the language of the
question; `any` and `mine` are the shares of questions that have a right answer among the first ten, in any language and
in their own; `answers` is how many of the right answers are there. `AP_multi` is over the whole order, and is computed
from all scores besides. AP within one language does not depend on a bonus.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence

import numpy as np

from hybrid_ir.data import lareqa_collection
from hybrid_ir.encoders import encode, load_encoder
from hybrid_ir.index import (
    Policy,
    Shard,
    ShardQuery,
    choose,
    encoder_folder,
    merge,
    open_shard,
    read_manifest,
    strata_of,
)

K = 10
BONUSES = (-0.05, -0.02, -0.01, 0.0, 0.01, 0.02, 0.05, 2.0)


def first_hits(
    shards: Sequence[Shard], languages: Sequence[str], vectors: np.ndarray, language: str, bonus: float
) -> list[list[int]]:
    """Global ids of the first hits of each query, all in one language."""
    strata = strata_of(Policy({language: bonus}), ShardQuery(K), languages)
    found = []
    for stratum in strata:
        parts = [shard.search(vectors, [stratum.query] * len(vectors)) for shard in shards]
        found.append([merge([part[n] for part in parts], K, lossy=False) for n in range(len(vectors))])
    return [[one.global_id for one in choose([each[n] for each in found], strata, K).hits] for n in range(len(vectors))]


def average_precision(scores: np.ndarray, right: Sequence[int]) -> float:
    """Of one query over the whole order; ties by id."""
    positions = np.sort([1 + (scores > scores[n]).sum() + (scores[:n] == scores[n]).sum() for n in right])
    return float(np.mean(np.arange(1, len(positions) + 1) / positions))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", required=True)
    parser.add_argument("--xquad", required=True)
    parser.add_argument("--questions", type=int, default=1190, help="Of each language.")
    given = parser.parse_args()
    manifest = read_manifest(given.index)
    shards = [open_shard(given.index, manifest, n) for n in range(len(manifest.shards))]
    collection = lareqa_collection(given.xquad, "xquad-r")
    # The index has them in the order of the collection: a global id is a place in it.
    places = {candidate.doc_id: n for n, candidate in enumerate(collection.candidates)}
    assert len(places) == manifest.rows
    ids = np.concatenate([shard.ids for shard in shards])
    stored = np.concatenate([shard.vectors for shard in shards])[np.argsort(ids)]
    language_of = np.asarray([candidate.language for candidate in collection.candidates])
    answers: dict[str, list[int]] = {}
    for n, candidate in enumerate(collection.candidates):
        for group in candidate.group_ids:
            answers.setdefault(group, []).append(n)
    encoder = load_encoder(str(encoder_folder(given.index, manifest)))
    sums = {bonus: np.zeros(5) for bonus in BONUSES}
    count = 0
    for language in manifest.languages:
        queries = [query for query in collection.queries if query.language == language][: given.questions]
        vectors = np.asarray(encode(encoder, [query.text for query in queries], role="query"), np.float32)
        rights = [answers[query.group_id] for query in queries]
        cosines = vectors @ stored.T
        count += len(queries)
        for bonus in BONUSES:
            begun = time.perf_counter()
            hits = first_hits(shards, list(manifest.languages), vectors, language, bonus)
            spent = time.perf_counter() - begun
            for found, right, scores in zip(hits, rights, cosines, strict=True):
                mine = language_of[found] == language
                is_right = np.isin(found, right)
                whole = average_precision(scores + np.float64(bonus) * (language_of == language), right)
                sums[bonus] += [mine.mean(), is_right.any(), (is_right & mine).any(), is_right.sum(), whole]
            print(json.dumps({"language": language, "bonus": bonus, "search_s": round(spent, 1)}), flush=True)
    names = ("own", "any", "mine", "answers", "AP_multi")
    for bonus, values in sums.items():
        print(json.dumps({"bonus": bonus, **dict(zip(names, (values / count).round(4).tolist(), strict=True))}))


if __name__ == "__main__":
    main()
