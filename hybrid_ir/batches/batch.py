"""One step's batch, as columns, and which of its rows a rank has. In: columns of the global batch. Out: a rank's slice.

Every rank gets the whole global batch and works on its slice, so that ids for masking need no communication.
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hybrid_ir.encoders import Tokens

if TYPE_CHECKING:  # so that a step runs where neither Ray nor Arrow is installed
    from hybrid_ir.batches.plan import Pair
    from hybrid_ir.config import Kind


@dataclass(frozen=True, eq=False)
class TeacherVectors:
    """A second encoder's unit vectors, as float16, of the texts of a batch."""

    queries_BD: np.ndarray
    passages_BD: np.ndarray
    negatives_ND: np.ndarray | None


@dataclass(frozen=True, eq=False)
class TeacherScores:
    """A reranker's scores, as float32: of each row's question with its passage, and with its own hard negatives."""

    passages_B: np.ndarray
    negatives_N: np.ndarray


@dataclass(frozen=True, eq=False)
class Batch:
    """One global batch: B rows, L the languages that passages of this batch are in, N hard negatives of all rows.

    Column entry i is of row i, or of negative i; the negatives lie in the order of their rows.
    """

    step: int
    kind: Kind
    pairs: tuple[Pair, ...]
    query_tokens: Tokens
    passage_tokens: Tokens
    negative_tokens: Tokens | None
    passage_ids_BLS: np.ndarray  # int64 hashes of each group's up to S passage ids in each of the L languages, and -1
    # behind them; in the language of the row's passage, that one comes first
    passage_language_B: np.ndarray  # index into L of each row's passage
    query_ids_BM: np.ndarray  # likewise of its question, in each of the M languages that queries are in
    query_language_B: np.ndarray  # index into M of each row's query
    negative_ids_N: np.ndarray | None
    negative_row_N: np.ndarray | None  # which row each negative is of; every row has one or more
    sources: tuple[str, ...] = ()  # of each row; () where they have no part in the mix
    teacher: TeacherVectors | TeacherScores | None = None
    parallel_tokens: Tokens | None = None  # questions in another language, of the rows that have one (`loss.alignment`)
    parallel_row: np.ndarray | None = None  # which row each of these is of, ascending

    @property
    def size(self) -> int:
        return len(self.query_tokens)

    @property
    def repeats_a_question(self) -> bool:
        """Whether two groups ask the same question in one of the batch's languages. Told here, on the CPU: to ask a
        mask on a GPU would wait for it."""
        ids = np.sort(self.query_ids_BM, axis=0)
        return bool(((ids[1:] == ids[:-1]) & (ids[1:] >= 0)).any())

    def slice(self, rank: int, workers: int) -> builtins.slice:
        """The rows that a rank works on."""
        sizes = slice_sizes(self.size, workers)
        start = sum(sizes[:rank])
        return slice(start, start + sizes[rank])

    def negative_sizes(self, workers: int) -> list[int]:
        """Hard negatives of each rank's rows: contiguous, in rank order."""
        assert self.negative_row_N is not None
        ends = np.cumsum(slice_sizes(self.size, workers))
        return np.diff(np.searchsorted(self.negative_row_N, ends), prepend=0).tolist()

    def parallel_slice(self, rank: int, workers: int) -> builtins.slice:
        """Those of `parallel_tokens` that are of a rank's rows."""
        assert self.parallel_row is not None
        rows = self.slice(rank, workers)
        start, stop = np.searchsorted(self.parallel_row, [rows.start, rows.stop]).tolist()
        return slice(start, stop)


def slice_sizes(size: int, workers: int) -> list[int]:
    """Rows of a global batch that each rank works on: contiguous, in rank order, equal to within one."""
    return [size // workers + (rank < size % workers) for rank in range(workers)]
