"""Language correction without training. In: an encoder, texts by language. Out: a linear layer that it gets.

Passages of one language lie around a mean of their own, and a query finds those around its own mean first, whatever
they say. The differences between the means of L languages span L - 1 dimensions, and a linear layer takes that part
off every vector: off queries and passages alike, and without being told the language of either.

After arXiv 2109.04727 (LIR, which takes off the main directions of each language's vectors) and arXiv 2606.18801
(SHIFT, which takes each language's mean off its own vectors). On XQuAD-R it does what taking each mean off does, to a
thousandth of AP (docs/measured.md), and as a layer it is in the checkpoint, in the space id, and in every server that
reads the folder.

L languages, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize

from hybrid_ir.encoders.embedding import encode
from hybrid_ir.types import InputError

LEAST_TEXTS = 50
_LEAST_SHARE = 0.01
"""Of the largest singular value: what is smaller is the chance of which texts were taken."""
_NO_BIAS = 0.01
"""Length of the largest difference from the mean of unit vectors that is no language's own."""


@dataclass(frozen=True)
class Correction:
    """v -> v - P (v - m), then to unit length: P projects onto what the languages' means differ in."""

    projection_DD: np.ndarray
    """P, symmetric, of rank `rank`."""
    mean_D: np.ndarray
    """m, the mean of the languages' means."""
    languages: tuple[str, ...]
    rank: int

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """(N, D) float32 unit vectors -> (N, D) float32 unit vectors."""
        moved = vectors - (vectors - self.mean_D) @ self.projection_DD
        return (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)


def learn_correction(model: SentenceTransformer, texts: Mapping[str, Sequence[str]]) -> Correction:
    """The correction that passages of several languages teach; they need not be translations of one another.

    Raises InputError for fewer than two languages, fewer than `LEAST_TEXTS` texts of one, and for an encoder whose
    languages do not differ.
    """
    few = {language: len(some) for language, some in texts.items() if len(some) < LEAST_TEXTS}
    if len(texts) < 2 or few:
        found = ", ".join(f"{language} {n}" for language, n in sorted(few.items())) or f"languages: {len(texts)}"
        raise InputError(
            f"language means need at least two languages of {LEAST_TEXTS} texts each, found {found}; give more texts, "
            "or leave those languages out"
        )
    languages = tuple(sorted(texts))
    return correction_of({x: encode(model, texts[x], role="document", languages=x) for x in languages})


def correction_of(vectors: Mapping[str, np.ndarray]) -> Correction:
    """`learn_correction` from vectors: (N, D) float32 unit vectors of passages of each language."""
    languages = tuple(sorted(vectors))
    means_LD = np.stack([vectors[x].mean(axis=0, dtype=np.float64) for x in languages])
    mean_D = means_LD.mean(axis=0)
    _, sizes, directions = np.linalg.svd(means_LD - mean_D, full_matrices=False)
    if sizes[0] < _NO_BIAS:
        raise InputError(
            f"the means of {', '.join(languages)} differ by {sizes[0]:.4f} of a vector's length at most: this encoder "
            "has no language means to take off, or they were taken off before"
        )
    kept = directions[sizes > _LEAST_SHARE * sizes[0]][: len(languages) - 1]
    return Correction((kept.T @ kept).astype(np.float32), mean_D.astype(np.float32), languages, len(kept))


def apply_correction(model: SentenceTransformer, correction: Correction) -> None:
    """Append the correction to the model, in place: a dense layer without an activation, and normalising."""
    dimension = len(correction.mean_D)
    weight = np.eye(dimension, dtype=np.float32) - correction.projection_DD
    layer = Dense(
        in_features=dimension,
        out_features=dimension,
        bias=True,
        activation_function=torch.nn.Identity(),
        init_weight=torch.from_numpy(weight),
        init_bias=torch.from_numpy(correction.mean_D @ correction.projection_DD),
    ).to(model.device)
    if not isinstance(model[-1], Normalize):
        model.append(Normalize())
    model.append(layer)
    model.append(Normalize())
