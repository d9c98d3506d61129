"""What an encoder loses in 8 bits, language by language, before it serves.

In: an index, and its encoder in fp32 and in 8 bits. Out: the cosine of the two vectors of a text, or a refusal. It is
measured at each start, so that it is of this encoder, these languages and this CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hybrid_ir.encoders import Embedder, TextReader
from hybrid_ir.index import Manifest, read_texts
from hybrid_ir.types import InputError

TEXTS = 32
"""Of a language; the mean cosine of so many differs by some 1e-4 from that of all."""
_AMONG = 2048
LEAST_COSINE = 0.998
"""Mean cosine of a language's vectors in 8 bits to those in fp32. Of multilingual-e5-small an export with a mean of
0.996 lost two points of AP across languages."""


def sample_of_index(index: str, manifest: Manifest) -> dict[str, list[str]]:
    """Up to `TEXTS` texts of each language, at even distances among the first that one shard has of it.

    Of an index at a URI little is fetched. Raises InputError where passages cannot be read.
    """
    texts: dict[str, list[str]] = {}
    for entry in manifest.shards:
        for language, (first, end) in entry.languages.items():
            if language not in texts and language in entry.living:
                some = read_texts(f"{index}/shards/{entry.name}/passages.arrow", first, min(end, first + _AMONG))
                texts[language] = some[:: -(-len(some) // TEXTS)]
    return dict(sorted(texts.items()))


def measure_loss(
    reader: TextReader, whole: Embedder, int8: Embedder, texts: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Language -> mean cosine of the two vectors of each of its texts, which are read as queries. Without gradients."""
    cosines = {}
    for language, some in texts.items():
        tokens = reader.read(list(some), "query", language)
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
