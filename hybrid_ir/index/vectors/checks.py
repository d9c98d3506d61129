"""Which vectors no index can hold, and whether they are an encoder's. In: vectors. Out: what is wrong with them.

One NaN is enough to spoil an index without a word: it compares with nothing, so that sorting by it is arbitrary.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hybrid_ir.encoders import encode
from hybrid_ir.index.fragments import Fragments
from hybrid_ir.types import InputError

COMPARED = 64
"""Passages that `check_agreement` encodes: a second or two of a CPU, and enough for a median."""
LEAST_AGREEMENT = 0.99
"""Median cosine below which vectors are another encoder's, or of other texts. Of multilingual-e5-small on sentences of
XQuAD-R, the same vectors rounded to 8 bits have 1.000, as bf16 has, and weights in 8 bits .996; the prefix "Passage: "
.986; its prefix for queries .976; a title before each sentence .960; another order .752. No prefix at all (.997) is not
told apart."""
UNIT_TOLERANCE = 1e-5
"""How far from 1 the length of a unit vector may be. Rounding to float32 explains some 1e-7, to float16 some 1e-3."""


def first_fault(vectors: np.ndarray) -> tuple[int, str] | None:
    """(row, what is wrong) of the first of (N, D) vectors that is NaN, infinite or all zero; None if none is."""
    finite = np.all(np.isfinite(vectors), axis=1)
    bad = ~(finite & vectors.any(axis=1))
    if not bad.any():
        return None
    row = int(np.flatnonzero(bad)[0])
    return row, "all zero" if finite[row] else "not all finite (NaN or infinity)"


def as_unit(vectors: np.ndarray) -> tuple[np.ndarray, int]:
    """The (N, D) float32 vectors with those that are not of unit length divided by it, and how many these were.

    The others are left as they are to the last bit. Lengths are float64: squares of float32 may be 0 or infinite.
    """
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    other = np.abs(lengths - 1) > UNIT_TOLERANCE
    if other.any():
        vectors = vectors.copy()
        vectors[other] = vectors[other] / lengths[other, None]
    return vectors, int(other.sum())


def check_agreement(model: Any, fragments: Fragments, precision: str, path: str) -> dict[str, float]:
    """The median and the lowest cosine between the vectors that the fragments have and those that the encoder makes of
    the same passages, over `COMPARED` of them, spread evenly. `path` is where the vectors are from.

    Raises InputError where the median is below `LEAST_AGREEMENT`.
    """
    ids = np.linspace(0, fragments.rows - 1, min(COMPARED, fragments.rows)).astype(np.int64)
    passages = fragments.passages(ids)
    texts, languages = [passage.text for passage in passages], [passage.language for passage in passages]
    own = encode(model, texts, role="document", languages=languages, precision=precision)
    cosines = (own * fragments.vectors(ids)).sum(axis=1)
    median, lowest = float(np.median(cosines)), float(cosines.min())
    if median < LEAST_AGREEMENT:
        raise InputError(
            f"the vectors of {path} are not those that --checkpoint makes of these passages: of {len(ids)} that were "
            f"encoded again the median cosine is {median:.3f}, and {LEAST_AGREEMENT} is the least; name the encoder "
            "that made them, with its prefix for passages (encoder.passage_prefix), give the texts as it read them, in "
            "the same order where vectors have no doc_ids, or leave out --vectors"
        )
    return {"agreement": round(median, 4), "lowest": round(lowest, 4)}
