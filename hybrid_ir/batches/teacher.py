"""What a teacher says of a batch's rows, and whether a store has what a training asks of it.

In: a store that `hybrid-ir teach` wrote, rows and languages. Out: numbers for the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hybrid_ir.batches.batch import TeacherScores, TeacherVectors
from hybrid_ir.config import Experiment
from hybrid_ir.data import Partition, Store
from hybrid_ir.types import InputError

OfRows = Callable[[Sequence[str]], list[np.ndarray]]
"""A teacher's column of each row -> its numbers there."""


def check_teacher(store: Store, experiment: Experiment, partitions: Sequence[Partition]) -> None:
    """Raise InputError where `loss.teacher` or `loss.alignment` asks for what the store's groups do not have."""
    loss = experiment.loss
    if loss.teacher is None and not loss.alignment:
        return
    asked = f"loss.teacher={loss.teacher}" if loss.teacher else f"loss.alignment={loss.alignment:g}"
    if experiment.batch.positives == "same_text":
        raise InputError(
            f"{asked} is about questions, and with batch.positives=same_text no question is asked; set "
            "batch.positives=answer"
        )
    if loss.alignment:
        wanted = set(experiment.batch.languages or store.languages)
        if all(len(wanted & set(p.languages)) < 2 for p in partitions):
            raise InputError(
                f"loss.alignment={loss.alignment:g} needs groups whose question is there in two of the languages of "
                f"training, and {store.path} has none; set loss.alignment=0"
            )
    if loss.teacher is None:
        return
    taught = store.manifest.get("taught")
    if taught is None:
        raise InputError(
            f"{asked} needs what a teacher says of the store's texts, and {store.path} has nothing of it; run: "
            "hybrid-ir teach"
        )
    if taught["by"] == "reranker":
        _check_reranker(store, experiment, taught)
    if any([f["rows"] for f in p.teacher] != [f["rows"] for f in p.files] for p in partitions):
        raise InputError(f"{store.path} is damaged: its teacher's files do not fit its groups; teach it again")


def _check_reranker(store: Store, experiment: Experiment, taught: dict[str, Any]) -> None:
    loss, asked = experiment.loss, f"loss.teacher={experiment.loss.teacher}"
    if loss.teacher == "mse":
        raise InputError(
            f"{asked} learns a teacher's vectors, and the teacher of {store.path} is a reranker, which has none; set "
            "loss.teacher=kl or margin_mse"
        )
    if loss.negatives == "in_batch":
        raise InputError(
            f"{asked} of a reranker compares a passage with the group's hard negatives: set "
            "loss.negatives=in_batch_and_hard or triplet (hybrid-ir mine finds negatives; mine before you teach)"
        )
    if taught["pairs"] == "same" and "cross_lingual" in experiment.batch.weights:
        raise InputError(
            f"the reranker of {store.path} read questions with passages in their own language alone (--pairs same), "
            "and batch.alpha or batch.mix asks for cross_lingual batches; teach with --pairs all, or set batch.alpha=1"
        )


def check_dimension(store: Store, experiment: Experiment, dimension: int | None) -> None:
    """Raise InputError where the encoder that is trained cannot have its teacher's vectors."""
    taught = store.manifest.get("taught") or {}
    if experiment.loss.teacher == "mse" and dimension != taught["dimension"]:
        raise InputError(
            f"loss.teacher=mse draws vectors of {dimension} values to the teacher's, which have {taught['dimension']}; "
            "set loss.teacher=kl, or take a teacher of as many"
        )


def teacher_of(
    taught: dict[str, Any],
    of_rows: OfRows,
    pairs: Sequence[tuple[str, str]],
    drawn_B: Sequence[int],
    drawn_negatives_B: Sequence[Sequence[int]] | None,
) -> TeacherVectors | TeacherScores:
    """What the teacher says of each row's question, of the passage that was drawn and of the negatives that were."""
    if taught["by"] == "encoder":
        D = taught["dimension"]
        columns = ([f"t{half}_{answered}" for _, answered in pairs] for half in "pn")
        queries_BD = np.stack(of_rows([f"tq_{asked}" for asked, _ in pairs]))
        passages = of_rows(next(columns))
        passages_BD = np.stack([of.reshape(-1, D)[n] for of, n in zip(passages, drawn_B, strict=True)])
        if drawn_negatives_B is None:
            return TeacherVectors(queries_BD, passages_BD, None)
        negatives = zip(of_rows(next(columns)), drawn_negatives_B, strict=True)
        return TeacherVectors(queries_BD, passages_BD, np.concatenate([of.reshape(-1, D)[ns] for of, ns in negatives]))
    assert drawn_negatives_B is not None
    passages, negatives = (of_rows([f"t{half}_{asked}_{answered}" for asked, answered in pairs]) for half in "pn")
    return TeacherScores(
        np.array([of[n] for of, n in zip(passages, drawn_B, strict=True)]),
        np.concatenate([of[ns] for of, ns in zip(negatives, drawn_negatives_B, strict=True)]),
    )
