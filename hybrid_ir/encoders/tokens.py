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

    It reads as a list of arrays: `tokens[i]` is a text, `tokens[a:b]` are neighbours, and `a + b` has b's after a's.
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
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> Tokens: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | Tokens:
        """One text's ids, or the `Tokens` of neighbours; neither copies the ids."""
        starts, ends = self.offsets[:-1], self.offsets[1:]
        if not isinstance(index, slice):
            return self.flat[starts[index] : ends[index]]
        first, last, stride = index.indices(len(self))
        assert stride == 1
        bounds = self.offsets[first : max(first, last) + 1]
        return Tokens(self.flat[bounds[0] : bounds[-1]], bounds - bounds[0])

    def __add__(self, other: Tokens) -> Tokens:
        offsets = np.concatenate([self.offsets, self.offsets[-1] + other.offsets[1:]])
        return Tokens(np.concatenate([self.flat, other.flat]), offsets)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> Tokens:
        """The texts of `rows`, in that order."""
        starts, lengths = self.offsets[rows], self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return Tokens(self.flat[np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])], offsets)

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
