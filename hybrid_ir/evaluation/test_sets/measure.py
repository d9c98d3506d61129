"""How an encoder ranks a test set with judgements: nDCG@10, RR@10, R@100 and AP of the best 1000 passages of a query.

In: the encoders of queries and of passages, a `JudgedSet`. Out: a `TaskResult`; the run and the judgements as TREC
files, from which trec_eval gives the same numbers.

The measures are trec_eval's. The gain of a passage in nDCG is its grade (Järvelin and Kekäläinen, "Cumulated
gain-based evaluation of IR techniques", TOIS 2002), discounted by log2(position + 1). The others count every grade
above 0 as relevant. The mean of RR@10 is what papers call MRR@10.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from hybrid_ir.evaluation.ranking import BestPassages, Cut, Encode, Run, measure_run, rank_pools, write_run
from hybrid_ir.evaluation.tasks.result import TaskResult, per_query_table, task_counts
from hybrid_ir.evaluation.test_sets.judged_set import JudgedSet

MEASURES = ("nDCG@10", "RR@10", "R@100", "AP")
DEPTH = 1000
LEFT_OUT = ("unjudged queries", "queries without relevant", "relevant not in corpus")
"""What of a set takes no part, summed over languages."""


def measure_judged(
    test: JudgedSet, encode_query: Encode, encode_passage: Encode, runs: Path, cut: Cut | None = None
) -> TaskResult:
    """Rank all passages for every query, once in one pool and once in the pool of each language of passages. With
    `cut` a passage has the score of the best of its pieces, and those that have several are counted.

    A relevant passage that the pool lacks lowers recall as it should, and is counted. Writes `runs/all.trec`, of the
    one pool, and `runs/qrels.trec`.
    """
    query_ids = list(test.queries)
    asked = test.queries.values()
    vectors = encode_query([query.text for query in asked], [query.language for query in asked])
    depth = DEPTH + test.own_ids_are_no_answer
    counted = None if cut is None else _Counted(cut)
    pools = rank_pools(vectors, test.ranked_passages(), encode_passage, depth=depth, cut=counted)
    together = BestPassages(len(query_ids), depth)
    for pool in pools.values():
        together.merge(pool)
    run = _answers(together.run(query_ids), test)
    write_run(runs / "all.trec", run)
    _write_qrels(runs / "qrels.trec", test.qrels)
    values = measure_run(test.qrels, run, MEASURES)
    languages = np.array([query.language for query in test.queries.values()])
    rows = {}
    for code in sorted(set(languages.tolist())):
        own = np.flatnonzero(languages == code)
        rows[code] = ([query_ids[i] for i in own], {name: column[own] for name, column in values.items()})
    counts = task_counts(test.left_out, LEFT_OUT)
    counts["left_out"]["passages without text"] = test.n_empty
    counts["passages"] = dict(sorted(test.n_passages.items()))
    if counted is not None:
        counts["pieces"], counts["passages in pieces"] = counted.pieces, counted.long
    pairs = [_pairs(test, code, pool) for code, pool in sorted(pools.items())] if len(pools) > 1 else []
    return TaskResult(MEASURES, per_query_table(rows), counts, per_pair=pa.concat_tables(pairs) if pairs else None)


class _Counted:
    """What cuts passages into pieces, and counts these."""

    def __init__(self, cut: Cut) -> None:
        self._cut = cut
        self.pieces = self.long = 0

    def __call__(self, texts: Sequence[str], languages: Sequence[str]) -> np.ndarray:
        found = self._cut(texts, languages)
        self.pieces += len(found)
        self.long += int(np.count_nonzero(np.bincount(found[:, 0]) > 1))
        return found


def _answers(run: Run, test: JudgedSet) -> Run:
    """The run as it is measured: at most `DEPTH` passages, where BEIR's rule holds without the query itself."""
    if not test.own_ids_are_no_answer:
        return run
    return {q: dict([pair for pair in scores.items() if pair[0] != q][:DEPTH]) for q, scores in run.items()}


def _pairs(test: JudgedSet, passage_language: str, pool: BestPassages) -> pa.Table:
    """The measures in the pool of one language, of the queries that have something relevant there."""
    run = _answers(pool.run(list(test.queries)), test)
    qrels = {}
    for query_id, judged in test.qrels.items():
        here = {d: grade for d, grade in judged.items() if test.passage_language.get(d) == passage_language}
        if any(grade > 0 for grade in here.values()):
            qrels[query_id] = here
    values = measure_run(qrels, run, MEASURES)
    return pa.table(
        {
            "query_id": pa.array(list(qrels), pa.string()),
            "language": pa.array([test.queries[q].language for q in qrels], pa.string()),
            "passage_language": pa.array([passage_language] * len(qrels), pa.string()),
            **{name: pa.array(column) for name, column in values.items()},
        }
    )


def _write_qrels(path: Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for query_id, judged in qrels.items():
            stream.writelines(f"{query_id} 0 {doc_id} {grade}\n" for doc_id, grade in judged.items())
