"""The order in which an epoch visits the rows of a partition: a keyed bijection, evaluated where it is asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ROWS_PER_BLOCK = 1024
"""Rows of a Parquet row group. A permutation deals a block's rows together, so that reads stay nearly sequential.
(A power of 4, so that the Feistel network below needs no walking within a block.)"""


def epoch_order(positions: np.ndarray, n: int, key: tuple[int, int, int]) -> np.ndarray:
    """Rows at `positions` of the order in which an epoch visits rows 0..n-1. A bijection; nothing of size n is made.

    The first half of the rows always comes before the second (which rows those are is already random: the store is
    shuffled). So a batch that straddles two epochs takes the end of one half and the start of the other, and cannot
    hold a group twice as long as it takes no more rows than either half has. Within a half, blocks are visited in a
    random order and rows within a block too; the short block of a half comes last.
    """
    half = first_half(n)
    rows = np.empty_like(positions)
    for which, (start, size) in enumerate(((0, half), (half, n - half))):
        inside = (positions >= start) & (positions < start + size)
        if not inside.any():
            continue
        block, offset = np.divmod(positions[inside] - start, ROWS_PER_BLOCK)
        full = size // ROWS_PER_BLOCK
        place = block.copy()
        whole = block < full
        if whole.any():
            place[whole] = permute(block[whole], full, (*key, which))
        shuffled = np.empty_like(offset)
        for b in np.unique(place):
            mine = place == b
            length = ROWS_PER_BLOCK if b < full else size - full * ROWS_PER_BLOCK
            shuffled[mine] = permute(offset[mine], length, (*key, which, int(b)))
        rows[inside] = start + place * ROWS_PER_BLOCK + shuffled
    return rows


def first_half(n: int) -> int:
    """Rows of the half that an epoch visits first: whole blocks, unless there are too few for that to be about half."""
    return (n + 1) // 2 if n < 8 * ROWS_PER_BLOCK else n // (2 * ROWS_PER_BLOCK) * ROWS_PER_BLOCK


def permute(values: np.ndarray, n: int, key: Sequence[int]) -> np.ndarray:
    """A keyed pseudo-random bijection of 0..n-1, evaluated at `values`: six Feistel rounds on the smallest even number
    of bits that holds n, walked until the value falls below n (Black and Rogaway, "Ciphers with arbitrary finite
    domains", 2002)."""
    if n <= 1:
        return values.copy()
    half_bits = np.uint64(max(1, (int(n - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    rounds = np.random.SeedSequence([int(k) for k in key]).generate_state(6, np.uint64)
    out = values.astype(np.uint64)
    walking = np.ones(out.shape, dtype=bool)
    while walking.any():
        left, right = out[walking] >> half_bits, out[walking] & mask
        for round_key in rounds:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        out[walking] = (left << half_bits) | right
        walking = out >= n
    return out.astype(values.dtype)


def _mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser (Steele, Lea, Flood 2014); wraps around on purpose."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
