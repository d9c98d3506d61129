"""Texts -> token ids, as an encoder reads them. In: texts and a prefix. Out: `Tokens`, two flat columns. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, overload

import numpy as np


@dataclass(frozen=True, eq=False)
class Tokens:
    """Token ids of several texts as two columns: text i is `flat[offsets[i] : offsets[i + 1]]`.

    It reads as an array of texts: `tokens[i]` is one, `tokens[a:b]` and `tokens[numbers]` some, `a + b` a's and then
    b's.
    """

    flat: np.ndarray  # int32
    offsets: np.ndarray  # int64; one more than there are texts, from 0 to len(flat)

    @classmethod
    def of(cls, texts: Sequence[Sequence[int] | np.ndarray]) -> Tokens:
        """The columns of ragged rows of ids."""
        offsets = np.cumsum([0, *map(len, texts)])
        return cls(np.fromiter(chain.from_iterable(texts), np.int32, offsets[-1]), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, rows: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, rows: slice | np.ndarray) -> Tokens: ...
    def __getitem__(self, rows: int | slice | np.ndarray) -> np.ndarray | Tokens:
        starts, ends = self.offsets[:-1][rows], self.offsets[1:][rows]
        if not isinstance(starts, np.ndarray):
            return self.flat[starts:ends]
        lengths = ends - starts
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return Tokens(self.flat[np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])], offsets)

    def __add__(self, other: Tokens) -> Tokens:
        offsets = np.concatenate([self.offsets, self.offsets[-1] + other.offsets[1:]])
        return Tokens(np.concatenate([self.flat, other.flat]), offsets)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def padded(self, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
        """(texts, longest) int64: ids with `pad_id` behind shorter texts, and a mask that is 1 where a token is."""
        lengths = self.lengths
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(mask.shape, pad_id, dtype=np.int64)
        ids[mask] = self.flat  # a mask is filled row by row, which is the order of `flat`
        return ids, mask.astype(np.int64)


def tokenize(tokenizer: Any, texts: Sequence[str], prefix: str, max_tokens: int) -> Tokens:
    """Token ids of `prefix + text`, cut to `max_tokens` with special tokens in place.
    The same ids as `SentenceTransformer.encode(text, prompt=prefix)` feeds to the model."""
    if not texts:
        return Tokens.of([])
    return Tokens.of(
        tokenizer(
            [prefix + text for text in texts],
            truncation=True,
            max_length=max_tokens,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
    )
