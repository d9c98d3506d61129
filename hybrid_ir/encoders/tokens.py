"""Texts -> token ids, as an encoder reads them. In: texts and a prefix. Out: one unpadded array a text. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def tokenize(tokenizer: Any, texts: Sequence[str], prefix: str, max_tokens: int) -> list[np.ndarray]:
    """Token ids of `prefix + text`, cut to `max_tokens` with special tokens in place, unpadded; int32 arrays.
    The same ids as `SentenceTransformer.encode(text, prompt=prefix)` feeds to the model."""
    if not texts:
        return []
    ids = tokenizer(
        [prefix + text for text in texts],
        truncation=True,
        max_length=max_tokens,
        return_attention_mask=False,
        return_token_type_ids=False,
    )["input_ids"]
    return [np.asarray(row, dtype=np.int32) for row in ids]
