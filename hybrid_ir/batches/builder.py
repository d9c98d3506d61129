"""The plan's rows, read and tokenised. In: a plan, its store, an encoder's reader. Out: the `Batch` of any step.

Of a group with several passages one is drawn, and of several hard negatives as many as are asked for, each with the
same chance. The same on every machine: a draw depends on the seed, the step and the row's place in the batch, and
nothing depends on which steps were built before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from hybrid_ir.batches.batch import Batch
from hybrid_ir.batches.by_source import rows_in_store
from hybrid_ir.batches.plan import BatchPlan, Plan
from hybrid_ir.batches.tasks import roles_of
from hybrid_ir.batches.teacher import teacher_of
from hybrid_ir.data import Lexicon, Store, code_switch
from hybrid_ir.encoders import TextReader, Tokens
from hybrid_ir.types import key64


@dataclass(frozen=True)
class BatchBuilder:
    """step -> Batch. Reads only the columns and row groups that the step needs; the store caches recent row groups."""

    store: Store
    plan: Plan
    reader: TextReader
    negatives: int
    """Most hard negatives of a row; 0 = none are read."""
    positives: str
    code_switch: float
    lexicon: Lexicon | None
    taught: dict[str, Any] | None = None
    """What the store's manifest says of its teacher; None = the teacher is not asked."""
    parallel: bool = False
    """Whether each row has its question in another language as well."""
    tasks: Mapping[str, str] = field(default_factory=dict)
    """Source -> the role in which its questions are read, where that is not `query`."""

    def build(self, step: int) -> Batch:
        planned = self.plan.batch(step)
        partition_B, row_B = rows_in_store(planned, self.plan.partitions, self.store)
        plan = replace(planned, partition_B=partition_B, row_B=row_B)
        query_languages, passage_languages = zip(*plan.pairs, strict=True)
        answered = sorted(set(passage_languages))
        language_B = np.asarray([answered.index(x) for x in passage_languages], dtype=np.int64)
        texts, ids_BLS, drawn_B = self._positives(plan, passage_languages, answered, language_B)
        passages = self._tokens(plan, "p", texts, passage_languages)
        # The same text twice, prefix and all: only dropout may tell the two apart (SimCSE).
        if self.positives == "same_text":
            queries = passages
        else:
            queries = self._tokens(plan, "q", self._of_rows(plan, "q", query_languages), query_languages)
        negatives, negative_ids_N, negative_row_N, drawn_negatives_B = self._negatives(plan, passage_languages)
        teacher = None
        if self.taught is not None:
            of_rows = partial(self._read, plan, np.arange(len(plan.pairs)))
            teacher = teacher_of(self.taught, of_rows, plan.pairs, drawn_B, drawn_negatives_B)
        parallel_tokens, parallel_row = self._parallel(plan, query_languages)
        asked = sorted(set(query_languages))
        return Batch(
            step=step,
            kind=plan.kind,
            pairs=plan.pairs,
            query_tokens=queries,
            passage_tokens=passages,
            negative_tokens=negatives,
            passage_ids_BLS=ids_BLS,
            passage_language_B=language_B,
            query_ids_BM=self._ids(plan, "q", asked)[:, :, 0],
            query_language_B=np.asarray([asked.index(x) for x in query_languages], dtype=np.int64),
            negative_ids_N=negative_ids_N,
            negative_row_N=negative_row_N,
            sources=planned.sources,
            teacher=teacher,
            parallel_tokens=parallel_tokens,
            parallel_row=parallel_row,
        )

    def _positives(
        self, plan: BatchPlan, languages: Sequence[str], answered: Sequence[str], language_B: np.ndarray
    ) -> tuple[list[str], np.ndarray, list[int]]:
        """The passage of each row, drawn from those of its group in its language; `passage_ids_BLS`; which it is."""
        of_rows = self._of_rows(plan, "p", languages)
        drawn_B = (self._random(plan, "p") * [len(texts) for texts in of_rows]).astype(np.int64)
        ids_BLS = self._ids(plan, "p_id", answered)
        rows = np.arange(len(of_rows))
        ids_BLS[rows, language_B, 0], ids_BLS[rows, language_B, drawn_B] = (
            ids_BLS[rows, language_B, drawn_B],
            ids_BLS[rows, language_B, 0],
        )
        drawn = drawn_B.tolist()
        return [texts[n] for texts, n in zip(of_rows, drawn, strict=True)], ids_BLS, drawn

    def _negatives(
        self, plan: BatchPlan, languages: Sequence[str]
    ) -> tuple[Tokens | None, np.ndarray | None, np.ndarray | None, list[list[int]] | None]:
        """Tokens, ids and rows of the hard negatives, and which of its own they are of each row. A row whose group has
        fewer than are asked for gives all it has, once each."""
        if not self.negatives:
            return None, None, None, None
        of_rows, ids_of_rows = (self._of_rows(plan, half, languages) for half in ("n", "n_id"))
        order = self._random(plan, "n", max(map(len, of_rows)))
        texts: list[str] = []
        rows: list[int] = []
        ids, places = [], []
        for row, there in enumerate(of_rows):
            drawn = np.sort(np.argsort(order[row, : len(there)])[: self.negatives]).tolist()
            texts += [there[i] for i in drawn]
            ids += [ids_of_rows[row][i] for i in drawn]
            rows += [row] * len(drawn)
            places.append(drawn)
        tokens = self.reader.read(texts, "document", [languages[row] for row in rows])
        return tokens, _keys(ids), np.asarray(rows, dtype=np.int64), places

    def _parallel(self, plan: BatchPlan, languages: Sequence[str]) -> tuple[Tokens | None, np.ndarray | None]:
        """The question of each row in another of the languages of training, drawn from those that its group has, and
        the rows that have one."""
        if not self.parallel:
            return None, None
        random_B, rows, columns = self._random(plan, "a").tolist(), [], []
        for row, language in enumerate(languages):
            there = self.store.partitions[plan.partition_B[row]].languages
            others = [x for x in self.plan.languages if x in there and x != language]
            if others:
                rows.append(row)
                columns.append(f"q_{others[int(random_B[row] * len(others))]}")
        if not rows:
            return None, None
        row_A = np.asarray(rows, dtype=np.int64)
        texts, asked = self._read(plan, row_A, columns), [column.removeprefix("q_") for column in columns]
        return self._questions(plan, row_A, texts, asked), row_A

    def _random(self, plan: BatchPlan, half: str, *each: int) -> np.ndarray:
        """Numbers from 0 to 1 for the rows of a step, which the batches of all workers share. `half`: p for passages,
        n for negatives, a for the languages of questions to align with."""
        random = np.random.default_rng([self.plan.seed, plan.step, 2 + "pna".index(half)])
        return random.random((len(plan.row_B), *each))

    def _tokens(self, plan: BatchPlan, half: str, texts: list[str], languages: Sequence[str]) -> Tokens:
        """Texts of column `half` (q or p) as tokens; words swapped by the lexicon (arXiv 2305.05295)."""
        if self.lexicon is not None:
            for row, language in enumerate(languages):
                others = [x for x in self.store.languages if x != language]
                random = np.random.default_rng([self.plan.seed, plan.step, "qp".index(half), row])
                texts[row] = code_switch(texts[row], self.lexicon, language, others, self.code_switch, random)
        if half == "q":
            return self._questions(plan, np.arange(len(texts)), texts, languages)
        return self.reader.read(texts, "document", languages)

    def _questions(self, plan: BatchPlan, rows: np.ndarray, texts: list[str], languages: Sequence[str]) -> Tokens:
        """Questions of these rows as tokens, each behind the prompt of its source's task, if that has one."""
        if not self.tasks:
            return self.reader.read(texts, "query", languages)
        groups = self._read(plan, rows, ["group_id"] * len(rows))
        read = zip(roles_of(groups, self.tasks), languages, strict=True)
        prefixes = [str(self.reader.prefix(*each)) for each in read]
        return self.reader.read_behind(texts, prefixes)

    def _of_rows(self, plan: BatchPlan, half: str, languages: Sequence[str]) -> list[Any]:
        """Column `half` of every row in that row's language."""
        return self._read(plan, np.arange(len(languages)), [f"{half}_{language}" for language in languages])

    def _ids(self, plan: BatchPlan, half: str, languages: Sequence[str]) -> np.ndarray:
        """(B, languages, most of one group): hashes of column `half` of each row in each of these languages, -1 where
        its group has none or no more. A question has no other id than its text."""
        has_BL = np.array([[x in self.store.partitions[p].languages for x in languages] for p in plan.partition_B])
        rows, columns = np.nonzero(has_BL)
        read = self._read(plan, rows, [f"{half}_{languages[x]}" for x in columns.tolist()])
        ids = [value if isinstance(value, list) else [value] for value in read]
        lengths = np.array(list(map(len, ids)))
        ids_BLS = np.full((*has_BL.shape, lengths.max()), -1, dtype=np.int64)
        there = np.arange(lengths.max()) < lengths[:, None]
        ids_BLS[rows.repeat(lengths), columns.repeat(lengths), np.nonzero(there)[1]] = _keys([*chain(*ids)])
        return ids_BLS

    def _read(self, plan: BatchPlan, rows: np.ndarray, columns: Sequence[str]) -> list[Any]:
        """Of each of `rows` of the batch, the column of the store that `columns` names beside it."""
        together: dict[tuple[int, str], list[int]] = {}
        for i, place in enumerate(zip(plan.partition_B[rows].tolist(), columns, strict=True)):
            together.setdefault(place, []).append(i)
        values: list[Any] = [None] * len(rows)
        for (partition, column), where in together.items():
            taken = self.store.take(partition, plan.row_B[rows[where]], column)
            for i, value in zip(where, taken, strict=True):
                values[i] = value
        return values


def _keys(ids: Sequence[str]) -> np.ndarray:
    return np.asarray([key64(x) for x in ids], dtype=np.int64)
