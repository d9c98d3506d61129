"""What an export costs and gives. In: an encoder, its export, and a collection. Out: their measures side by side.

Both encode the same texts on the CPU, the original in fp32. So what differs is the export alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from hybrid_ir.encoders import encode
from hybrid_ir.evaluation.averages import evaluate_collection
from hybrid_ir.measure_names import PRECISIONS
from hybrid_ir.types import Collection

_OF_LANGUAGE = ("AP_mono", "AP_cross_as_query", "AP_multi")


def compare_export(
    original: SentenceTransformer,
    export: SentenceTransformer,
    test: Collection,
    progress: Callable[[int], None] = lambda texts: None,
) -> dict[str, Any]:
    """AP of both, in all and by language, and the mean cosine of the two vectors of a text, by the text's language.

    `texts_per_s` is of each, with `threads` threads, over all texts of the collection. `progress` gets how many texts
    are done, of twice as many as the collection has.
    """
    measured = [_measure(model, test, progress) for model in (original, export)]
    (before, vectors, speed), (after, others, speed_after) = measured
    cosines = np.einsum("td,td->t", vectors, others, dtype=np.float64)
    language_of = np.array([item.language for item in (*test.queries, *test.candidates)])

    def both(row: dict[str, Any], other: dict[str, Any], names: Sequence[str]) -> dict[str, dict[str, Any]]:
        return {name: {"original": row[name], "export": other[name]} for name in names}

    return {
        "collection": test.name,
        "texts": len(cosines),
        "averages": both(before, after, PRECISIONS),
        "cosine": {"mean": float(cosines.mean()), "least": float(cosines.min())},
        "per_language": {
            language: both(before["per_language"][language], after["per_language"][language], _OF_LANGUAGE)
            | {"cosine": float(cosines[language_of == language].mean())}
            for language in before["languages"]
        },
        "original_bytes": sum(p.numel() * p.element_size() for p in original.parameters()),
        "texts_per_s": {"original": speed, "export": speed_after},
        "threads": torch.get_num_threads(),
    }


def _measure(
    model: SentenceTransformer, test: Collection, progress: Callable[[int], None]
) -> tuple[dict[str, Any], np.ndarray, float]:
    roles = {"query": test.queries, "document": test.candidates}
    encode(model, [item.text for item in test.candidates[:8]], role="document", precision="fp32")  # warms it up
    start = time.perf_counter()
    queries, candidates = (
        encode(
            model,
            [item.text for item in items],
            role=role,
            languages=[item.language for item in items],
            precision="fp32",
            progress=progress,
        )
        for role, items in roles.items()
    )
    speed = (len(queries) + len(candidates)) / (time.perf_counter() - start)
    result = evaluate_collection(test.queries, test.candidates, queries, candidates, resamples=0)
    return result.summary, np.concatenate([queries, candidates]), speed
