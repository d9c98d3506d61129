"""Texts of like lengths as rectangles, which a CPU's attention multiplies. In: lengths. Out: where each token goes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_SPREAD = 1.3  # texts whose lengths differ by no more than this factor share a rectangle


@dataclass(frozen=True)
class Rectangle:
    """Texts that attention reads together."""

    start: int
    """Rows of the rectangles before it."""
    scores_before: int
    """Scores of the rectangles before it."""
    matrices: int
    """Texts times heads."""
    length: int
    """Of the longest text."""
    mask: Tensor | None
    """(matrices, 1, length): what is added to scores, -inf where there is no token. None = all have that length."""

    def of(self, rows: Tensor, parts: int) -> Tensor:
        """Its matrices, (parts, matrices, length, d), among the rows of all rectangles."""
        size = self.matrices * self.length
        return rows[parts * self.start : parts * (self.start + size)].view(parts, self.matrices, self.length, -1)

    def scores_of(self, scores: Tensor) -> Tensor:
        """Its scores, (matrices, length, length), among those of all rectangles."""
        size = self.matrices * self.length**2
        return scores[self.scores_before : self.scores_before + size].view(self.matrices, self.length, self.length)


class Rectangles:
    """Where the rows of T tokens go. A row is what one head has of a token, d numbers.

    A rectangle's rows are in the order (text, head, place in the text): matrices of (length, d). Where a text is
    shorter than its rectangle, the row of its first token fills the rest.
    """

    def __init__(self, lengths: np.ndarray, heads: int) -> None:
        """`lengths` of texts, ascending. Raises ValueError if they are not."""
        if np.any(lengths[1:] < lengths[:-1]):
            raise ValueError("texts must be sorted by length")
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        head = np.arange(heads)
        self.all: list[Rectangle] = []
        into, into_three, filled = [], [], []
        back = np.empty((offsets[-1], heads), np.int64)
        back_three = np.empty((offsets[-1], 3, heads), np.int64)
        first = rows = scores = 0
        while first < len(lengths):
            end = int(np.searchsorted(lengths, _SPREAD * lengths[first], side="right"))
            texts, length = end - first, int(lengths[end - 1])
            place = np.arange(length)
            real = place < lengths[first:end, None]
            token = (offsets[first:end, None] + np.where(real, place, 0))[:, None, :]
            within = (np.arange(texts)[:, None, None] * heads + head) * length + place[:, None]  # text, place, head
            mine, size = slice(offsets[first], offsets[end]), texts * heads * length
            into.append((token * heads + head[:, None]).ravel())
            mask = None
            for part in range(3):
                into_three.append(((token * 3 + part) * heads + head[:, None]).ravel())
                back_three[mine, part] = 3 * rows + part * size + within[real]
            back[mine] = rows + within[real]
            if not real.all():
                filled.append((rows + within[~real]).ravel())
                mask = torch.zeros(real.shape).masked_fill_(torch.from_numpy(~real), -torch.inf)
                mask = mask.repeat_interleave(heads, 0)[:, None]
            self.all.append(Rectangle(rows, scores, texts * heads, length, mask))
            first, rows, scores = end, rows + size, scores + size * length
        self.heads, self.rows, self.scores = heads, rows, scores
        self.into, self.into_three = (torch.from_numpy(np.concatenate(each)) for each in (into, into_three))
        self.back, self.back_three = torch.from_numpy(back.ravel()), torch.from_numpy(back_three.ravel())
        self.filled = torch.from_numpy(np.concatenate(filled)) if filled else None

    def spread(self, columns: Tensor, parts: int) -> Tensor:
        """(T, parts * D) -> (parts * rows, d), `parts` 1 or 3."""
        rows = columns.view(len(columns) * parts * self.heads, -1)
        return torch.index_select(rows, 0, self.into if parts == 1 else self.into_three)

    def gathered(self, rows: Tensor, parts: int) -> Tensor:
        """(parts * rows, d) -> (T, parts * D)."""
        chosen = torch.index_select(rows, 0, self.back if parts == 1 else self.back_three)
        return chosen.view(len(self.back) // self.heads, -1)
