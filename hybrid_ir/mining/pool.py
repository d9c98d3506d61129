"""What is mined: the questions and passages of a store's training split by language, and which answer which.

In: a store, and a corpus where there is one. Out: numbers. A text stays where it is; what is kept of it are 64 bits, by
which equal ones are found.

Shape legend: `G` groups of the store in the order of its partitions and rows, `Q` those of them that have a language,
`R` all passages of these, `C` passages of the corpus in that language, `P` different ones of all these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from hybrid_ir.data import ROWS_PER_BLOCK, Store
from hybrid_ir.mining.corpus import Corpus, id_key, text_key
from hybrid_ir.types import key64


@dataclass(frozen=True)
class LanguagePool:
    """The groups that have a language, and the different passages of it."""

    group_Q: np.ndarray
    """Numbers of the groups, ascending. Row i of the questions is that of group_Q[i]."""
    start_Q: np.ndarray
    """Where the answers of each begin in answer_R, and R at the end: each has one or more."""
    answer_R: np.ndarray
    """Which passage each answer is."""
    first_P: np.ndarray
    """Place where each passage comes first, ascending: in answer_R, or in the corpus, whose places are behind."""
    set_P: np.ndarray
    """Of which answers each passage is, as Pool.answers_G numbers them."""

    @property
    def stored(self) -> int:
        """How many of the passages are the store's. Those behind them are the corpus's."""
        return int(np.searchsorted(self.first_P, len(self.answer_R)))

    def answers_GS(self, places: np.ndarray) -> np.ndarray:
        """(places, most answers of one) the answers of these places in group_Q; the last one again behind them."""
        first, last = self.start_Q[places], self.start_Q[places + 1] - 1
        return self.answer_R[np.minimum(first[:, None] + np.arange((last - first).max() + 1), last[:, None])]

    def groups_of(self, answers: np.ndarray) -> np.ndarray:
        """The groups that places in answer_R belong to."""
        return self.group_Q[np.searchsorted(self.start_Q, answers, side="right") - 1]


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
    """Groups with one number here share an answer, by its doc_id or its text, in some language, or a chain of groups
    does."""

    def rows(self, groups: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(partition, its rows, where they stand in `groups`) of group numbers."""
        partitions = np.searchsorted(self.start, groups, side="right") - 1
        for partition in np.unique(partitions):
            where = np.flatnonzero(partitions == partition)
            yield int(partition), groups[where] - self.start[partition], where

    def texts(self, groups: np.ndarray, column: str) -> list[Any]:
        """Column (such as q_de) of groups, all of which have it: of passages and negatives lists."""
        values: list[Any] = [None] * len(groups)
        for partition, rows, where in self.rows(groups):
            for i, value in zip(where, self.store.take(partition, rows, column), strict=True):
                values[i] = value
        return values

    def questions_of(self, language: str, group_G: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of these groups have a question in a language, and which it is among those of the language."""
        group_Q = self.languages[language].group_Q
        rows = np.minimum(np.searchsorted(group_Q, group_G), len(group_Q) - 1)
        here = np.flatnonzero(group_Q[rows] == group_G)
        return here, rows[here]

    def answers_to(self, language: str) -> csr_array:
        """(questions by their number in asks_G, P) bool: the passages of a language that answer each question.

        They are the passages of every group that asks it, in any language, and the translations of these: what other
        groups that have one of these answers have in this language, and what of the corpus has the id or the text of
        one of these, or is in a group with it. None of them is taken for a wrong answer.
        """
        set_P = self.languages[language].set_P
        sets = max(self.answers_G.max(), set_P.max()) + 1
        has_answer = coo_array(
            (np.ones(len(self.asks_G), bool), (self.asks_G, self.answers_G)), shape=(self.asks_G.max() + 1, sets)
        )
        is_answer = coo_array((np.ones(len(set_P), bool), (set_P, np.arange(len(set_P)))), shape=(sets, len(set_P)))
        return csr_array(has_answer.tocsr() @ is_answer.tocsr())


def read_pool(
    store: Store, corpus: Corpus | None = None, progress: Callable[[str, int], None] = lambda stage, done: None
) -> Pool:
    """Read every question and passage of the training split once. Some 60 bytes a text are needed.

    Raises InputError for a file of the store that cannot be read.
    """
    start = np.cumsum([0, *(partition.rows for partition in store.partitions)])
    found: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = {}
    questions: list[tuple[np.ndarray, np.ndarray]] = []
    answers: list[tuple[np.ndarray, np.ndarray]] = []
    nodes = read = 0  # a node of the corpus is a passage of it, as one of the store is a group
    for language in store.languages:
        groups, asked, lengths, ids, texts = [], [], [], [], []
        for number, partition in enumerate(store.partitions):
            if language not in partition.languages:
                continue
            for first in range(0, partition.rows, ROWS_PER_BLOCK):
                rows = np.arange(first, min(first + ROWS_PER_BLOCK, partition.rows))
                groups.append(start[number] + rows)
                asked.append(_keys((f"q_{language} {q}" for q in store.take(number, rows, f"q_{language}")), key64))
                of_rows = store.take(number, rows, f"p_id_{language}")
                lengths += map(len, of_rows)
                ids.append(_keys(chain(*of_rows), id_key))
                texts.append(_keys(chain(*store.take(number, rows, f"p_{language}")), text_key))
                read += len(rows)
                progress("questions read", read)
        group_Q = np.concatenate(groups)
        node = [group_Q.repeat(lengths)]
        questions.append((group_Q, np.concatenate(asked)))
        if corpus is not None:
            part = corpus.parts[language]
            node.append(start[-1] + nodes + np.arange(len(part.id_C)))
            nodes += len(part.id_C)
            ids.append(np.asarray(part.id_C))
            texts.append(np.asarray(part.text_C))
            if len(part.group_C):
                answers.append((node[1], np.asarray(part.group_C)))
        node_R, id_R, text_R = (np.concatenate(each) for each in (node, ids, texts))
        answers += [(node_R, id_R), (node_R, text_R)]
        passage_R, first_P = _different(id_R, text_R)
        start_Q = np.cumsum([0, *lengths])
        found[language] = group_Q, start_Q, passage_R[: start_Q[-1]], first_P, node_R[first_P]
    sets = _connected(answers, start[-1] + nodes)
    languages = {language: LanguagePool(a, b, c, d, sets[node_P]) for language, (a, b, c, d, node_P) in found.items()}
    return Pool(store, start, languages, _connected(questions, start[-1]), sets[: start[-1]])


def _keys(values: Iterable[str], key: Callable[[str], int]) -> np.ndarray:
    return np.fromiter(map(key, values), np.int64)


def _different(id_R: np.ndarray, text_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """answer_R and first_P: passages of one id are one, and so are those of one text."""
    _, first, inverse = np.unique(id_R, return_index=True, return_inverse=True)
    _, first, passage_R = np.unique(text_R[first[inverse]], return_index=True, return_inverse=True)
    order = np.argsort(first)  # numbered as they come, so that the store is read from its beginning to its end
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    return number[passage_R], first[order]


def _connected(found: list[tuple[np.ndarray, np.ndarray]], n_nodes: int) -> np.ndarray:
    """Which nodes share a key with each other, or with one that does: a number for each such set."""
    node = np.concatenate([nodes for nodes, _ in found])
    key = np.concatenate([keys for _, keys in found])
    order = np.argsort(key, kind="stable")
    same = np.flatnonzero(key[order][1:] == key[order][:-1])
    edges = node[order][same], node[order][same + 1]
    graph = coo_array((np.ones(len(same), np.int8), edges), shape=(n_nodes, n_nodes))
    return connected_components(graph, directed=False)[1]
