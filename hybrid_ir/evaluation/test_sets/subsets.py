"""How an encoder ranks a data set of several subsets, each of which has queries and a pool of passages of its own.

In: the encoders of queries and of passages, a `JudgedSet` for each subset. Out: a `TaskResult` whose languages are the
names of the subsets, so that its means are means over subsets; the best 1000 passages in `runs/{subset}.trec`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from hybrid_ir.evaluation.ranking import Encode, measure_run, rank_pools, write_run
from hybrid_ir.evaluation.tasks.result import TaskResult, per_query_table, task_counts
from hybrid_ir.evaluation.test_sets.judged_set import JudgedSet
from hybrid_ir.evaluation.test_sets.measure import DEPTH, LEFT_OUT


def measure_subsets(
    subsets: Mapping[str, JudgedSet], measures: Sequence[str], encode_query: Encode, encode_passage: Encode, runs: Path
) -> TaskResult:
    """Rank the passages of each subset for its queries. A query is named `{subset}/{query_id}`, as others may have
    its id."""
    rows, counts = {}, {}
    for name, test in subsets.items():
        asked = test.queries.values()
        vectors = encode_query([query.text for query in asked], [query.language for query in asked])
        (best,) = rank_pools(vectors, test.ranked_passages(), encode_passage, depth=DEPTH).values()  # of one language
        run = best.run(list(test.queries))
        write_run(runs / f"{name}.trec", run)
        rows[name] = ([f"{name}/{query_id}" for query_id in test.queries], measure_run(test.qrels, run, measures))
        (left_out,) = test.left_out.values()
        counts[name] = {
            **left_out,
            "passages": sum(test.n_passages.values()),
            "passages without text": test.n_empty,
        }
    return TaskResult(tuple(measures), per_query_table(rows), task_counts(counts, (*LEFT_OUT, "passages without text")))


def content_of(subsets: Mapping[str, JudgedSet]) -> str:
    """A hash of all texts, languages and grades: a copy of the data set elsewhere has the same."""
    parts = "\n".join(f"{name} {test.content}" for name, test in subsets.items())
    return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()
