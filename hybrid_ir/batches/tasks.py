"""Of which task a question is: `batch.tasks` says it by its source. In: ids of groups. Out: the role of each question.

Training, mining and teaching read a question behind the same prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hybrid_ir.data import Store
from hybrid_ir.encoders import TextReader
from hybrid_ir.types import InputError


def check_tasks(tasks: Mapping[str, str], store: Store, reader: TextReader | None = None) -> None:
    """Raise InputError for a source that the store lacks, or a task that the encoder (`reader`) has no prompt for."""
    for source, task in tasks.items():
        if source not in store.sources:
            raise InputError(f"batch.tasks names {source!r}, which the store lacks; it has {', '.join(store.sources)}")
        if reader is not None:
            reader.check_task(task, f"batch.tasks.{source}")


def roles_of(group_ids: Sequence[str], tasks: Mapping[str, str]) -> list[str]:
    """Of each group's question: the task of its source, if that has one, or query."""
    return [tasks.get(group_id.partition(":")[0], "query") for group_id in group_ids]  # SOURCE:ID


def encode_by_role(
    encode: Callable[..., np.ndarray], texts: Sequence[str], roles: Sequence[str], language: str
) -> np.ndarray:
    """Vectors of texts of one language, in their order. What has one role is encoded together."""
    rows = {role: [n for n, own in enumerate(roles) if own == role] for role in sorted(set(roles)) or ["query"]}
    parts = [encode([texts[n] for n in own], role=role, languages=language) for role, own in rows.items()]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)[np.argsort(np.concatenate([*rows.values()]))]
