"""What is mined: the questions and passages of a store's training split by language, and which answer which.

In: a store. Out: numbers. A text stays in the store; what is kept of it are 64 bits, by which equal ones are found.

Shape legend: `G` groups of the store in the order of its partitions and rows, `Q` those of them that have a language,
`P` different passages of that language.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from hybrid_ir.data import ROWS_PER_BLOCK, Store
from hybrid_ir.types import key64


@dataclass(frozen=True)
class LanguagePool:
    """The groups that have a language, and the different passages of it."""

    group_Q: np.ndarray
    """Numbers of the groups, ascending. Row i of the questions is that of group_Q[i]."""
    answer_Q: np.ndarray
    """Which passage is the answer of each."""
    first_P: np.ndarray
    """Place in group_Q of the first group that has each passage, ascending: where its text is."""


@dataclass(frozen=True)
class Pool:
    """All of a store that is mined."""

    store: Store
    start: np.ndarray
    """Number of the first group of each partition, and of all groups at the end."""
    languages: dict[str, LanguagePool]
    asks_G: np.ndarray
    """Groups with one number here ask one question: they share it in some language, or a chain of groups does."""
    answers_G: np.ndarray
    """Groups with one number here have one answer: a passage, by its doc_id or its text, in some language."""

    def rows(self, groups: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(partition, its rows, where they stand in `groups`) of group numbers."""
        partitions = np.searchsorted(self.start, groups, side="right") - 1
        for partition in np.unique(partitions):
            where = np.flatnonzero(partitions == partition)
            yield int(partition), groups[where] - self.start[partition], where

    def texts(self, groups: np.ndarray, column: str) -> list[str]:
        """Column (such as q_de) of groups, all of which have it."""
        values = [""] * len(groups)
        for partition, rows, where in self.rows(groups):
            for i, value in zip(where, self.store.take(partition, rows, column), strict=True):
                values[i] = value
        return values

    def answers_to(self, language: str) -> csr_array:
        """(questions by their number in asks_G, P) bool: the passages of a language that answer each question.

        They are the passages of every group that asks it, in any language, and the translations of these: what other
        groups have as the same answer in this language. None of them is a wrong answer.
        """
        pool = self.languages[language]
        has_answer = coo_array(
            (np.ones(len(self.asks_G), bool), (self.asks_G, self.answers_G)),
            shape=(self.asks_G.max() + 1, self.answers_G.max() + 1),
        )
        passage_answer_P = self.answers_G[pool.group_Q[pool.first_P]]
        is_answer = coo_array(
            (np.ones(len(passage_answer_P), bool), (passage_answer_P, np.arange(len(passage_answer_P)))),
            shape=(self.answers_G.max() + 1, len(passage_answer_P)),
        )
        return csr_array(has_answer.tocsr() @ is_answer.tocsr())


def read_pool(store: Store, progress: Callable[[str, int], None] = lambda stage, done: None) -> Pool:
    """Read every question and passage of the training split once. Some 60 bytes a text are needed.

    Raises InputError for a file of the store that cannot be read.
    """
    start = np.cumsum([0, *(partition.rows for partition in store.partitions)])
    languages: dict[str, LanguagePool] = {}
    questions: list[tuple[np.ndarray, np.ndarray]] = []
    answers: list[tuple[np.ndarray, np.ndarray]] = []
    read = 0
    for language in store.languages:
        groups, asked, ids, texts = [], [], [], []
        for number, partition in enumerate(store.partitions):
            if language not in partition.languages:
                continue
            for first in range(0, partition.rows, ROWS_PER_BLOCK):
                rows = np.arange(first, min(first + ROWS_PER_BLOCK, partition.rows))
                groups.append(start[number] + rows)
                asked.append(_keys(f"q_{language}", store.take(number, rows, f"q_{language}")))
                # An id is one passage whatever its language; a text is one within its language.
                ids.append(_keys("doc_id", store.take(number, rows, f"p_id_{language}")))
                texts.append(_keys(f"p_{language}", store.take(number, rows, f"p_{language}")))
                read += len(rows)
                progress("questions read", read)
        group_Q, id_Q, text_Q = np.concatenate(groups), np.concatenate(ids), np.concatenate(texts)
        languages[language] = LanguagePool(group_Q, *_different(id_Q, text_Q))
        questions.append((group_Q, np.concatenate(asked)))
        answers += [(group_Q, id_Q), (group_Q, text_Q)]
    return Pool(store, start, languages, _connected(questions, start[-1]), _connected(answers, start[-1]))


def _keys(kind: str, texts: Sequence[str]) -> np.ndarray:
    return np.fromiter((key64(f"{kind} {text}") for text in texts), np.int64, len(texts))


def _different(id_Q: np.ndarray, text_Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """answer_Q and first_P: passages of one id are one, and so are those of one text."""
    _, first, inverse = np.unique(id_Q, return_index=True, return_inverse=True)
    _, first, passage_Q = np.unique(text_Q[first[inverse]], return_index=True, return_inverse=True)
    order = np.argsort(first)  # numbered as they come, so that the store is read from its beginning to its end
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    return number[passage_Q], first[order]


def _connected(found: list[tuple[np.ndarray, np.ndarray]], n_groups: int) -> np.ndarray:
    """(G,) which groups share a key with each other, or with one that does: a number for each such set."""
    group = np.concatenate([groups for groups, _ in found])
    key = np.concatenate([keys for _, keys in found])
    order = np.argsort(key, kind="stable")
    same = np.flatnonzero(key[order][1:] == key[order][:-1])
    edges = group[order][same], group[order][same + 1]
    graph = coo_array((np.ones(len(same), np.int8), edges), shape=(n_groups, n_groups))
    return connected_components(graph, directed=False)[1]
