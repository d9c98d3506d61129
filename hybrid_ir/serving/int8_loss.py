"""What an encoder loses in 8 bits, language by language, before it serves.

In: an index, and its encoder in fp32 and in 8 bits. Out: the cosine of the two vectors of a text, or a refusal. It is
measured at each start, so that it is of this encoder, these languages and this CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hybrid_ir.encoders import Embedder, TextReader
from hybrid_ir.index import Manifest, open_shard
from hybrid_ir.types import InputError

TEXTS = 32
"""Of a language; the mean cosine of so many differs by some 1e-4 from that of all."""
LEAST_COSINE = 0.998
"""Mean cosine of a language's vectors in 8 bits to those in fp32. Of multilingual-e5-small an export with a mean of
0.996 lost two points of AP across languages."""


def sample_of_index(index: str, manifest: Manifest) -> dict[str, list[str]]:
    """Up to `TEXTS` texts of each language, at even distances in the first shard that has the language.

    Raises InputError where such a shard cannot be opened.
    """
    texts: dict[str, list[str]] = {}
    for number, entry in enumerate(manifest.shards):
        new = [language for language in entry.languages if language not in texts]
        if new:
            shard = open_shard(index, manifest, number, checksums=False)
            for language in new:
                first, end = entry.languages[language]
                rows = np.unique(np.linspace(first, end - 1, TEXTS).astype(int)) if end > first else []
                if len(rows):
                    texts[language] = [passage.text for passage in shard.read([int(row) for row in rows])]
    return dict(sorted(texts.items()))


def measure_loss(
    reader: TextReader, whole: Embedder, int8: Embedder, texts: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Language -> mean cosine of the two vectors of each of its texts, which are read as queries. Without gradients."""
    cosines = {}
    for language, some in texts.items():
        tokens = reader.read(list(some), "query")
        cosines[language] = float((whole(tokens) * int8(tokens)).sum(1).mean())
    return cosines


def check_loss(index: str, cosines: Mapping[str, float]) -> None:
    """Raises InputError that names each language whose mean cosine is below `LEAST_COSINE`."""
    # not: <, which a NaN would pass
    lost = [f"{language} ({cosine:.4f})" for language, cosine in cosines.items() if not cosine >= LEAST_COSINE]
    if lost:
        raise InputError(
            f"in 8 bits the encoder of {index} gives other vectors than in fp32: their mean cosine is to be at least "
            f"{LEAST_COSINE}, and is less in {', '.join(lost)}; serve it with serve.precision=fp32"
        )
