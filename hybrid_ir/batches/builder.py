"""The plan's rows, read and tokenised. In: a plan, its store, an encoder's reader. Out: the `Batch` of any step.

The same on every machine: nothing depends on which steps were built before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hybrid_ir.batches.batch import Batch
from hybrid_ir.batches.plan import BatchPlan, Plan
from hybrid_ir.data import Lexicon, Store, code_switch
from hybrid_ir.encoders import TextReader, Tokens
from hybrid_ir.types import key64


@dataclass(frozen=True)
class BatchBuilder:
    """step -> Batch. Reads only the columns and row groups that the step needs; the store caches recent row groups."""

    store: Store
    plan: Plan
    reader: TextReader
    negatives: bool
    positives: str
    code_switch: float
    lexicon: Lexicon | None

    def build(self, step: int) -> Batch:
        plan = self.plan.batch(step)
        query_languages, passage_languages = zip(*plan.pairs, strict=True)
        passages = self._tokens(plan, "p", passage_languages)
        # The same text twice, prefix and all: only dropout may tell the two apart (SimCSE).
        queries = passages if self.positives == "same_text" else self._tokens(plan, "q", query_languages)
        asked, answered = sorted(set(query_languages)), sorted(set(passage_languages))
        return Batch(
            step=step,
            kind=plan.kind,
            pairs=plan.pairs,
            query_tokens=queries,
            passage_tokens=passages,
            negative_tokens=self._tokens(plan, "n", passage_languages) if self.negatives else None,
            passage_ids_BL=self._ids(plan, "p_id", answered),
            passage_language_B=np.asarray([answered.index(x) for x in passage_languages], dtype=np.int64),
            query_ids_BM=self._ids(plan, "q", asked),
            query_language_B=np.asarray([asked.index(x) for x in query_languages], dtype=np.int64),
            negative_ids_B=_keys(self._texts(plan, "n_id", passage_languages)) if self.negatives else None,
        )

    def _tokens(self, plan: BatchPlan, half: str, languages: Sequence[str]) -> Tokens:
        """Column `half` (q, p or n) as tokens; words of queries and passages swapped by the lexicon (arXiv
        2305.05295).
        """
        texts = self._texts(plan, half, languages)
        if self.lexicon is not None and half != "n":
            for row, language in enumerate(languages):
                others = [x for x in self.store.languages if x != language]
                random = np.random.default_rng([self.plan.seed, plan.step, "qp".index(half), row])
                texts[row] = code_switch(texts[row], self.lexicon, language, others, self.code_switch, random)
        return self.reader.read(texts, "query" if half == "q" else "document")

    def _texts(self, plan: BatchPlan, half: str, languages: Sequence[str]) -> list[str]:
        """Column `half` of every row in that row's language."""
        return self._read(plan, np.arange(len(languages)), [f"{half}_{language}" for language in languages])

    def _ids(self, plan: BatchPlan, half: str, languages: Sequence[str]) -> np.ndarray:
        """Hashes of column `half` of each row in each of these languages, -1 where its group has none. A question has
        no other id than its text."""
        has_BL = np.array([[x in self.plan.partitions[p].languages for x in languages] for p in plan.partition_B])
        ids_BL = np.full(has_BL.shape, -1, dtype=np.int64)
        rows, columns = np.nonzero(has_BL)
        ids_BL[has_BL] = _keys(self._read(plan, rows, [f"{half}_{languages[x]}" for x in columns.tolist()]))
        return ids_BL

    def _read(self, plan: BatchPlan, rows: np.ndarray, columns: Sequence[str]) -> list[str]:
        """Of each of `rows` of the batch, the column of the store that `columns` names beside it."""
        together: dict[tuple[int, str], list[int]] = {}
        for i, place in enumerate(zip(plan.partition_B[rows].tolist(), columns, strict=True)):
            together.setdefault(place, []).append(i)
        values: list[str] = [""] * len(rows)
        for (partition, column), where in together.items():
            taken = self.store.take(self._stored[partition], plan.row_B[rows[where]], column)
            for i, value in zip(where, taken, strict=True):
                values[i] = value
        return values

    @cached_property
    def _stored(self) -> list[int]:
        """The store's number of each of the plan's partitions."""
        names = {p.name: i for i, p in enumerate(self.store.partitions)}
        return [names[p.name] for p in self.plan.partitions]


def _keys(ids: Sequence[str]) -> np.ndarray:
    return np.asarray([key64(x) for x in ids], dtype=np.int64)
