"""Batches: the plan's rows read from the store and tokenised, one `Batch` a step. The same on every machine; no Ray.

A `Batch` is the whole global batch: every rank gets it and works on its slice, so ids for masking need no communication.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hybrid_ir.batches.plan import BatchPlan, Pair, Plan, make_plan
from hybrid_ir.config import Experiment, Kind
from hybrid_ir.data import Lexicon, Store, cldr_lexicon, code_switch, read_lexicon
from hybrid_ir.encoders import tokenize
from hybrid_ir.types import InputError, key64


@dataclass(frozen=True)
class Batch:
    """One global batch: B rows, L the languages that passages of this batch are in."""

    step: int
    kind: Kind
    pairs: tuple[Pair, ...]
    group_ids_B: np.ndarray  # int64 hashes of the group ids
    query_tokens: list[np.ndarray]
    passage_tokens: list[np.ndarray]
    negative_tokens: list[np.ndarray] | None
    passage_ids_BL: np.ndarray  # int64 hash of each group's passage id in each of the L languages; -1 = it has none
    passage_language_B: np.ndarray  # index into L of each row's passage
    negative_ids_B: np.ndarray | None

    @property
    def size(self) -> int:
        return len(self.query_tokens)


def slice_sizes(size: int, workers: int) -> list[int]:
    """Rows of a global batch that each rank works on: contiguous, in rank order, equal to within one."""
    return [size // workers + (rank < size % workers) for rank in range(workers)]


def plan_for(store: Store, experiment: Experiment) -> Plan:
    """The plan of an experiment over a store. Raises InputError for what the store cannot serve."""
    partitions = store.partitions
    if experiment.loss.negatives != "in_batch":
        partitions = tuple(p for p in partitions if p.negatives)
        if not partitions:
            raise InputError(
                f"loss.negatives={experiment.loss.negatives} needs groups with hard negatives, and {store.path} has none; "
                "use loss.negatives=in_batch or prepare a source with negatives"
            )
    plan = make_plan(
        partitions,
        weights=experiment.batch.weights,
        batch_size=experiment.batch.size,
        seed=experiment.seed,
        cross_lingual=experiment.batch.cross_lingual,
        languages=experiment.batch.languages,
        language_temperature=experiment.batch.language_temperature,
    )
    if experiment.batch.size < experiment.train.workers:
        raise InputError(
            f"batch.size={experiment.batch.size} cannot be split over train.workers={experiment.train.workers}"
        )
    return plan


class BatchBuilder:
    """step -> Batch. Reads only the columns and row groups that the step needs; a small cache holds recent row groups."""

    def __init__(
        self,
        store: Store,
        plan: Plan,
        tokenizer: Any,
        *,
        query_prefix: str,
        passage_prefix: str,
        max_tokens: int,
        negatives: bool,
        positives: str = "answer",
        code_switch: float = 0.0,
        lexicon: Lexicon | None = None,
    ) -> None:
        self.store, self.plan, self.tokenizer = store, plan, tokenizer
        self.query_prefix, self.passage_prefix = query_prefix, passage_prefix
        self.max_tokens = max_tokens
        self.negatives = negatives
        self.positives = positives
        self.code_switch, self.lexicon = code_switch, lexicon
        names = {p.name: i for i, p in enumerate(store.partitions)}
        self._stored = [names[p.name] for p in plan.partitions]

    def build(self, step: int) -> Batch:
        plan = self.plan.batch(step)
        B = len(plan.pairs)
        languages = sorted({passage_language for _, passage_language in plan.pairs})
        passages = self._switched(plan, "p", [p for _, p in plan.pairs])
        passage_tokens = self._tokens(passages, self.passage_prefix)
        if self.positives == "same_text":
            query_tokens = passage_tokens  # prefix and all: only dropout may tell the two apart (SimCSE)
        else:
            query_tokens = self._tokens(self._switched(plan, "q", [q for q, _ in plan.pairs]), self.query_prefix)
        ids_BL = np.full((B, len(languages)), -1, dtype=np.int64)
        for column, language in enumerate(languages):
            having = [i for i in range(B) if language in self.plan.partitions[plan.partition_B[i]].languages]
            values = self._read(plan, np.asarray(having), f"p_id_{language}")
            ids_BL[having, column] = [key64(v) for v in values]
        negative_ids = negative_tokens = None
        if self.negatives:
            texts = self._texts(plan, "n", [p for _, p in plan.pairs])
            ids = self._texts(plan, "n_id", [p for _, p in plan.pairs])
            negative_tokens = self._tokens(texts, self.passage_prefix)
            negative_ids = np.asarray([key64(i) for i in ids], dtype=np.int64)
        group_ids = self._read(plan, np.arange(B), "group_id")
        return Batch(
            step=step,
            kind=plan.kind,
            pairs=plan.pairs,
            group_ids_B=np.asarray([key64(g) for g in group_ids], dtype=np.int64),
            query_tokens=query_tokens,
            passage_tokens=passage_tokens,
            negative_tokens=negative_tokens,
            passage_ids_BL=ids_BL,
            passage_language_B=np.asarray([languages.index(p) for _, p in plan.pairs], dtype=np.int64),
            negative_ids_B=negative_ids,
        )

    def _tokens(self, texts: Sequence[str], prefix: str) -> list[np.ndarray]:
        return tokenize(self.tokenizer, texts, prefix, self.max_tokens)

    def _switched(self, plan: BatchPlan, half: str, languages: Sequence[str]) -> list[str]:
        """Texts as `_texts` has them, with words swapped as the step's seed says (arXiv 2305.05295)."""
        texts = self._texts(plan, half, languages)
        if self.lexicon is None:
            return texts
        key = [self.plan.seed, plan.step, "qp".index(half)]
        return [
            code_switch(
                text,
                self.lexicon,
                language,
                [x for x in self.store.languages if x != language],
                self.code_switch,
                np.random.default_rng([*key, row]),
            )
            for row, (text, language) in enumerate(zip(texts, languages, strict=True))
        ]

    def _texts(self, plan: Any, half: str, languages: Sequence[str]) -> list[str]:
        """Column `half` of every row in that row's language."""
        values: list[str] = [""] * len(languages)
        for language in sorted(set(languages)):
            rows = np.flatnonzero([x == language for x in languages])
            for i, value in zip(rows, self._read(plan, rows, f"{half}_{language}"), strict=True):
                values[i] = value
        return values

    def _read(self, plan: Any, rows: np.ndarray, column: str) -> list[str]:
        values: list[str] = [""] * len(rows)
        for partition in np.unique(plan.partition_B[rows]):
            where = np.flatnonzero(plan.partition_B[rows] == partition)
            taken = self.store.take(self._stored[partition], plan.row_B[rows[where]], column)
            for i, value in zip(where, taken, strict=True):
                values[i] = value
        return values


def builder_for(experiment: Experiment, store: Store, plan: Plan, tokenizer: Any) -> BatchBuilder:
    return BatchBuilder(
        store,
        plan,
        tokenizer,
        query_prefix=experiment.encoder.query_prefix,
        passage_prefix=experiment.encoder.passage_prefix,
        max_tokens=experiment.encoder.max_tokens,
        negatives=experiment.loss.negatives != "in_batch",
        positives=experiment.batch.positives,
        code_switch=experiment.batch.code_switch,
        lexicon=lexicon_for(experiment, store, plan),
    )


def lexicon_for(experiment: Experiment, store: Store, plan: Plan) -> Lexicon | None:
    """What code-switching translates with, from the languages of training into any of the store; None without it.

    Raises InputError for a lexicon that cannot be read, or that has nothing for these languages.
    """
    if not experiment.batch.code_switch:
        return None
    name = experiment.batch.lexicon
    lexicon = cldr_lexicon(store.languages) if name == "cldr" else read_lexicon(name)
    if not any(set(lexicon.targets(x)) & set(store.languages) for x in plan.languages):
        have = ", ".join(sorted(f"{a}-{b}" for a, b in lexicon.pairs)[:8])
        raise InputError(
            f"batch.lexicon={name} translates none of the languages of training ({', '.join(plan.languages)}) into another "
            f"of the store ({', '.join(store.languages)}); it has {have}"
        )
    return lexicon
