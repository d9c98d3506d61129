"""Validation: what chooses a checkpoint. In: an encoder and the store's validation collection. Out: its measures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.distributed as dist
from sentence_transformers import SentenceTransformer

from hybrid_ir.config import Evaluate
from hybrid_ir.encoders import encode
from hybrid_ir.evaluation import evaluate_collection, with_mean
from hybrid_ir.measure_names import HEADLINE
from hybrid_ir.types import Collection


def validate(
    model: SentenceTransformer, collection: Collection, settings: Evaluate, rank: int = 0, workers: int = 1
) -> dict[str, float]:
    """Each rank encodes its share; rank 0 measures; all learn the measures.

    AP_mean is over those of mono, cross and multi that the collection has.
    """
    texts = {"query": [q.text for q in collection.queries], "document": [c.text for c in collection.candidates]}
    vectors = [_encode_shared(model, role, texts[role], settings, rank, workers) for role in texts]
    measures: list[Any] = [None]
    if rank == 0:
        summary = evaluate_collection(collection.queries, collection.candidates, *vectors, resamples=0).summary
        found = {name: summary[name] for name in HEADLINE if summary[name] is not None}
        measures = [{**found, "AP_mean": with_mean(found)["AP_mean"]}]
    if workers > 1:
        dist.broadcast_object_list(measures, src=0)
    return measures[0]


def _encode_shared(
    model: SentenceTransformer, role: str, texts: list[str], settings: Evaluate, rank: int, workers: int
) -> np.ndarray:
    """Vectors of all texts, in their order, on every rank."""
    share = encode(
        model, texts[rank::workers], role=role, precision=settings.precision, token_budget=settings.token_budget
    )
    parts: list[Any] = [share]
    if workers > 1:
        parts = [None] * workers
        dist.all_gather_object(parts, share)
    whole = np.empty((len(texts), share.shape[1]), dtype=np.float32)
    for r, part in enumerate(parts):
        whole[r::workers] = part
    return whole
