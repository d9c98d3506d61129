"""Some texts of an index in each language. In: an index. Out: texts, the same each time."""

from __future__ import annotations

import numpy as np

from hybrid_ir.index.folder import Manifest
from hybrid_ir.index.shard import open_shard

TEXTS = 32
"""Of a language; the mean cosine of so many differs by some 1e-4 from that of all."""


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
