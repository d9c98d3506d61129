"""Validation: what chooses a checkpoint. In: an encoder, and of the store's validation split what is measured on.
Out: its measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import torch.distributed as dist
from sentence_transformers import SentenceTransformer

from hybrid_ir.config import Evaluate, Experiment
from hybrid_ir.data import Store
from hybrid_ir.encoders import encode
from hybrid_ir.evaluation import evaluate_collection, with_mean
from hybrid_ir.measure_names import HEADLINE
from hybrid_ir.types import Candidate, Collection, InputError, Query, key64


def check_validation(experiment: Experiment, store: Store) -> None:
    """Raise InputError for an `early_stopping_measure` that the validation split has no value of: no checkpoint would
    ever be better than the first."""
    chosen = experiment.train.early_stopping_measure
    if not store.manifest["eval"].get("validation"):
        return
    collection = store.collection("validation")
    languages = {q.language for q in collection.queries} & {c.language for c in collection.candidates}
    answered: dict[str, set[str]] = {}
    for candidate in collection.candidates:
        if candidate.language in languages:
            for group_id in candidate.group_ids:
                answered.setdefault(group_id, set()).add(candidate.language)
    found = set()
    for query in collection.queries:
        others = answered.get(query.group_id, set()) if query.language in languages else set()
        found |= {"AP_mono"} if query.language in others else set()
        found |= {"AP_cross"} if others - {query.language} else set()
    found |= {"AP_multi", "AP_mean"} if found else set()
    if chosen not in found:
        raise InputError(
            f"train.early_stopping_measure={chosen} has no value on the validation split of {store.path} (languages: "
            f"{', '.join(sorted(languages)) or 'none in common'}); it has {', '.join(sorted(found)) or 'no measure'}"
        )


def validation_collection(experiment: Experiment, store: Store) -> Collection | None:
    """What a training validates on: all that the store holds out for it, or `train.validation_groups` of its groups.

    Which groups depends on the seed and on their ids alone. Their passages come with them, and of the passages that
    answer nothing the same share. None where the store holds nothing out.
    """
    if not store.manifest["eval"].get("validation"):
        return None
    whole, most, seed = store.collection("validation"), experiment.train.validation_groups, experiment.seed
    groups = sorted({query.group_id for query in whole.queries}, key=lambda group: key64(f"{seed}/{group}"))
    if most is None or len(groups) <= most:
        return whole
    chosen, share = set(groups[:most]), most / len(groups)

    def stays(candidate: Candidate) -> bool:
        if candidate.group_ids:
            return not chosen.isdisjoint(candidate.group_ids)
        return key64(f"{seed}/{candidate.doc_id}") < share * 2**63

    queries = [query for query in whole.queries if query.group_id in chosen]
    return Collection(whole.name, queries, [candidate for candidate in whole.candidates if stays(candidate)])


def validate(
    model: SentenceTransformer, collection: Collection, settings: Evaluate, rank: int = 0, workers: int = 1
) -> dict[str, float]:
    """Each rank encodes its share; rank 0 measures, for as long as that takes; all learn the measures.

    AP_mean is over those of mono, cross and multi that the collection has.
    """
    vectors = [
        _encode_shared(model, role, texts, settings, rank, workers)
        for role, texts in ((settings.task or "query", collection.queries), ("document", collection.candidates))
    ]

    def measure() -> dict[str, float]:
        summary = evaluate_collection(collection.queries, collection.candidates, *vectors, resamples=0).summary
        found = {name: summary[name] for name in HEADLINE if summary[name] is not None}
        return {**found, "AP_mean": with_mean(found)["AP_mean"]}

    return measure() if workers == 1 else of_rank_0(measure, rank)


def of_rank_0(measure: Callable[[], dict[str, float]], rank: int, every_s: float = 30.0) -> dict[str, float]:
    """What `measure` returns on rank 0, told to every rank. Every rank must call it; raises on rank 0 what it raises.

    A rank that waits in a collective for longer than the process group's limit is ended (1,800 s is Ray Train's). So
    the others do not wait for the measures in one: every `every_s` seconds rank 0 tells them that it has none yet.
    """
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(measure) if rank == 0 else None
        while True:
            told: list[Any] = [None]
            if running is not None and wait([running], timeout=every_s).done:
                told = [running.result()]
            dist.broadcast_object_list(told, src=0)
            if told[0] is not None:
                return told[0]


def _encode_shared(
    model: SentenceTransformer,
    role: str,
    texts: Sequence[Query] | Sequence[Candidate],
    settings: Evaluate,
    rank: int,
    workers: int,
) -> np.ndarray:
    """Vectors of all texts, in their order, on every rank."""
    own = texts[rank::workers]
    share = encode(
        model,
        [each.text for each in own],
        role=role,
        languages=[each.language for each in own],
        precision=settings.precision,
        token_budget=settings.token_budget,
    )
    parts: list[Any] = [share]
    if workers > 1:
        parts = [None] * workers
        dist.all_gather_object(parts, share)
    whole = np.empty((len(texts), share.shape[1]), dtype=np.float32)
    for r, part in enumerate(parts):
        whole[r::workers] = part
    return whole
