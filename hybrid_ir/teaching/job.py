"""A teacher is asked about every text of a store's training split. In: a store, an encoder or a reranker. Out: a store
beside it that has the answers, from which a training learns (`loss.teacher`).

Of an encoder the vectors of all texts are kept: every score of any batch follows from them. Of a reranker a score of
each question with its group's passages and negatives is kept, for each pair of languages that was asked for; of groups
without negatives nothing.

The old store stays as it is, and the new one appears whole or not at all. Memory, apart from the teacher: the texts of
`ROWS_PER_BLOCK` groups in two columns, and what the teacher says of those groups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

import numpy as np

from hybrid_ir.batches import encode_by_role, roles_of
from hybrid_ir.data import SCORES, VECTORS, Partition, Store
from hybrid_ir.teaching.new_store import write_with_teacher
from hybrid_ir.types import InputError

PAIRS = ("all", "same")
"""Which languages a reranker reads together: those of every question and every passage of a group, or equal ones."""
Progress = Callable[[str, int], None]


class Encode(Protocol):
    """Texts of one language -> (texts, D) float32 unit vectors, in their order."""

    def __call__(self, texts: Sequence[str], *, role: str, languages: str) -> np.ndarray: ...


Scores = Callable[[Sequence[tuple[str, str]]], np.ndarray]
"""(question, passage) pairs -> a score each, in their order."""


def teach_vectors(
    store: Store,
    out: str,
    encode: Encode,
    *,
    made: Mapping[str, Any],
    tasks: Mapping[str, str] | None = None,
    progress: Progress = lambda stage, done: None,
) -> dict[str, Any]:
    """Write the store with an encoder's vectors of all texts to `out`, and return its manifest; `taught` in it says
    what was done. 2 bytes a value are kept (float16), of each text.

    `made` is what the manifest says of the encoder. `tasks` are those that its questions are of, by their source
    (`batch.tasks`). Raises InputError where `out` exists, for a store without groups, and for vectors that are not
    finite: nothing is written then.
    """
    dimensions: set[int] = set()

    def columns(partition: Partition) -> list[str]:
        halves = ("q", "p", "n") if partition.negatives else ("q", "p")
        return [f"t{half}_{language}" for language in partition.languages for half in halves]

    def ask(number: int, rows: np.ndarray, column: str) -> list[np.ndarray]:
        half, language = column[1], column.partition("_")[2]
        of_rows = store.take(number, rows, column[1:])
        roles = ["document"] * len(of_rows)
        if half == "q":
            of_rows = [[text] for text in of_rows]
            roles = roles_of(store.take(number, rows, "group_id"), tasks) if tasks else ["query"] * len(of_rows)
        read = [[(role, text) for text in texts] for role, texts in zip(roles, of_rows, strict=True)]
        # A passage may answer many questions: it is encoded once.
        place = {each: i for i, each in enumerate(dict.fromkeys(chain(*read)))}
        different = encode_by_role(encode, [text for _, text in place], [role for role, _ in place], language)
        vectors = _checked(different, len(place), 2)
        dimensions.add(vectors.shape[1])
        return [vectors[[place[each] for each in texts]].astype(np.float16).ravel() for texts in read]

    def taught() -> dict[str, Any]:
        return {"by": "encoder", "dimension": max(dimensions), **made, **({"tasks": dict(tasks)} if tasks else {})}

    return write_with_teacher(store, out, columns, VECTORS, ask, taught, progress)


def teach_scores(
    store: Store,
    out: str,
    scores: Scores,
    *,
    pairs: str,
    made: Mapping[str, Any],
    progress: Progress = lambda stage, done: None,
) -> dict[str, Any]:
    """The same with a reranker's scores of each question with the passages and negatives of its group, if it has some:
    it is from comparing the two that a training learns. Raises InputError where no group has negatives.

    `pairs`: "all" scores a question in each language with passages in each, L * L times as many as one language has;
    "same" only those of its own language, which is enough for monolingual and multilingual batches.
    """
    if pairs not in PAIRS:
        raise InputError(f"--pairs must be all or same, got {pairs!r}")
    if store.partitions and not any(partition.negatives for partition in store.partitions):
        raise InputError(
            f"a reranker compares passages with hard negatives, and no group of {store.path} has any; find some with "
            "hybrid-ir mine, or take an encoder for a teacher"
        )
    asked = 0

    def columns(partition: Partition) -> list[str]:
        if not partition.negatives:
            return []
        read = [(a, b) for a in partition.languages for b in partition.languages if pairs == "all" or a == b]
        return [f"t{half}_{a}_{b}" for a, b in read for half in "pn"]

    def ask(number: int, rows: np.ndarray, column: str) -> list[np.ndarray]:
        nonlocal asked
        half, language, answered = column[1], *column[3:].split("_")
        questions, of_rows = store.take(number, rows, f"q_{language}"), store.take(number, rows, f"{half}_{answered}")
        wanted = [(q, text) for q, texts in zip(questions, of_rows, strict=True) for text in texts]
        found = _checked(scores(wanted), len(wanted), 1)
        asked += len(wanted)
        progress("pairs scored", asked)
        return np.split(found, np.cumsum([len(texts) for texts in of_rows])[:-1])

    return write_with_teacher(
        store, out, columns, SCORES, ask, lambda: {"by": "reranker", "pairs": pairs, **made}, progress
    )


def _checked(found: np.ndarray, count: int, axes: int) -> np.ndarray:
    found = np.asarray(found, np.float32)
    if found.ndim != axes or len(found) != count or not np.isfinite(found).all():
        raise InputError(
            f"what the teacher says of {count} texts is of shape {found.shape} or holds NaN or infinity; it is damaged "
            "or overflowed: ask it with evaluate.precision=fp32, or take another"
        )
    return found
