"""The order in which an epoch visits a partition's rows: a keyed bijection. In: positions, a key. Out: rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from hybrid_ir.data import ROWS_PER_BLOCK


def epoch_order(
    positions: np.ndarray, n: int | np.ndarray, key: tuple[int, int | np.ndarray, int | np.ndarray]
) -> np.ndarray:
    """Rows at `positions` of the order in which an epoch visits rows 0..n-1. A bijection; nothing of size n is made.

    `key` is (seed, partition, epoch). It and `n` are for all positions or one for each: then neighbours of one
    partition should stand together, in order. What costs is a block that is begun, not a row.

    The first half of the rows always comes before the second (which rows those are is already random: the store is
    shuffled). So a batch that straddles two epochs takes the end of one half and the start of the other, and cannot
    hold a group twice as long as it takes no more rows than either half has. Within a half, blocks are visited in a
    random order and rows within a block too; the short block of a half comes last.
    """
    seed = key[0]
    n_B, partition_B, epoch_B = (_for_each(x, positions) for x in (n, *key[1:]))
    half_B = first_half(n_B)
    second_B = positions >= half_B
    start_B = second_B * half_B
    size_B = np.where(second_B, n_B - half_B, half_B)
    block_B, offset_B = np.divmod(positions - start_B, ROWS_PER_BLOCK)
    # Rows of one block that follow each other make a run, which has one key.
    new = np.ones(len(positions), dtype=bool)
    new[1:] = (block_B[1:] != block_B[:-1]) | (start_B[1:] != start_B[:-1])
    new[1:] |= (partition_B[1:] != partition_B[:-1]) | (epoch_B[1:] != epoch_B[:-1])
    first = np.flatnonzero(new)
    each = (partition_B, epoch_B, second_B, block_B, size_B)
    places, lengths, keys = [], [], []
    for partition, epoch, second, block, size in zip(*(x[first].tolist() for x in each), strict=True):
        whole, short = divmod(size, ROWS_PER_BLOCK)
        half_key = (seed, partition, epoch, int(second))
        place = _place(block, whole, half_key) if block < whole else block
        places.append(place)
        lengths.append(ROWS_PER_BLOCK if place < whole else short)
        keys.append(round_keys((*half_key, place)))
    run_B = np.cumsum(new) - 1
    shuffled_B = permute(offset_B, np.array(lengths)[run_B], np.array(keys, dtype=np.uint64).T[:, run_B])
    return start_B + np.array(places)[run_B] * ROWS_PER_BLOCK + shuffled_B


def first_half(n: int | np.ndarray) -> np.ndarray:
    """Rows of the half that an epoch visits first: whole blocks, unless there are too few for that to be about half."""
    return np.where(np.less(n, 8 * ROWS_PER_BLOCK), (n + 1) // 2, n // (2 * ROWS_PER_BLOCK) * ROWS_PER_BLOCK)


def permute(values: np.ndarray, n: int | np.ndarray, keys: tuple[int, ...] | np.ndarray) -> np.ndarray:
    """A keyed pseudo-random bijection of 0..n-1, evaluated at `values`: six Feistel rounds on the smallest even number
    of bits that holds n, walked until the value falls below n (Black and Rogaway, "Ciphers with arbitrary finite
    domains", 2002). `n` and `keys` (`round_keys`, or (6, B)) are for all values or one for each."""
    n_B = _for_each(n, values)
    # A float64 holds n - 1 up to 2**53 exactly, and frexp gives its bit length.
    half_bits_B = np.maximum((np.frexp(n_B - 1)[1] + 1) // 2, 1).astype(np.uint64)
    n_B = n_B.astype(np.uint64)
    keys_6B = keys if isinstance(keys, np.ndarray) else np.repeat(np.array([keys], dtype=np.uint64).T, len(values), 1)
    mask_B = np.left_shift(1, half_bits_B, dtype=np.uint64) - np.uint64(1)
    out = _encipher(values.astype(np.uint64), half_bits_B, mask_B, keys_6B, _mix)
    walking = np.flatnonzero(out >= n_B)
    while len(walking):
        some = half_bits_B[walking], mask_B[walking], keys_6B[:, walking]
        out[walking] = _encipher(out[walking], *some, _mix)
        walking = walking[out[walking] >= n_B[walking]]
    return out.astype(values.dtype)


@lru_cache(maxsize=4096)
def round_keys(key: tuple[int, ...]) -> tuple[int, ...]:
    """Six 64-bit numbers. Remembered, because a run of steps stays in the same blocks."""
    # An array of words is what numpy makes of a tuple of them, in half the time.
    entropy = np.array(key, dtype=np.uint32) if max(key) < 2**32 else key
    return tuple(np.random.SeedSequence(entropy).generate_state(6, np.uint64).tolist())


@lru_cache(maxsize=4096)
def _place(block: int, blocks: int, key: tuple[int, ...]) -> int:
    """As `permute` of one value, which walks further than the others: Python's numbers cost less than short arrays."""
    half_bits, keys = max(1, ((blocks - 1).bit_length() + 1) // 2), round_keys(key)
    while True:
        block = _encipher(block, half_bits, (1 << half_bits) - 1, keys, _mix_number)
        if block < blocks:
            return block


def _encipher(x: Any, half_bits: Any, mask: Any, keys: Any, mix: Callable[[Any], Any]) -> Any:
    """Six rounds on 2 * half_bits bits, of numbers or of uint64 arrays. `mask` is of half_bits ones."""
    left, right = x >> half_bits, x & mask
    for key in keys:
        left, right = right, left ^ (mix(right ^ key) & mask)
    return (left << half_bits) | right


def _mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser (Steele, Lea, Flood 2014); wraps around on purpose."""
    x = (x ^ (x >> _S30)) * _C1
    x = (x ^ (x >> _S27)) * _C2
    return x ^ (x >> _S31)


def _mix_number(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return x ^ (x >> 31)


# Without dimensions, not numbers: with those numpy takes twice the time on short arrays.
_S30, _S27, _S31, _C1, _C2 = (
    np.array(x, dtype=np.uint64) for x in (30, 27, 31, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def _for_each(x: Any, positions: np.ndarray) -> np.ndarray:
    return x if isinstance(x, np.ndarray) else np.full(len(positions), x)
