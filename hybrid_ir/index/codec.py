"""The codec: how vectors are stored, trained once for all shards.

In: fragments with their vectors. Out: an empty faiss index that every shard starts from.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from hybrid_ir.index.fragments import Fragments
from hybrid_ir.index.query import is_flat
from hybrid_ir.machine import usable_cpus
from hybrid_ir.types import InputError

FLAT_BELOW = 100_000
"""Passages a shard from which IVF with SQ8 is the default."""
ROWS_PER_SHARD = 1_000_000


def default_codec(rows: int, shards: int) -> str:
    """Flat below `FLAT_BELOW` passages a shard. Above it IVF with SQ8, about 4 sqrt(rows) lists in all (faiss' own
    guideline), a power of two."""
    if rows / shards < FLAT_BELOW:
        return "Flat"
    return f"IVF{2 ** round(np.log2(4 * np.sqrt(rows)))},SQ8"


def make_codec(codec: str, dimension: int) -> Any:
    """The untrained faiss index. Raises InputError for a string that faiss does not know, or a kind whose shards
    would not answer as the whole."""
    try:
        index = faiss.index_factory(dimension, codec, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        said = str(error).strip().splitlines()[-1][:200]
        raise InputError(
            f"codec {codec!r} is not one of faiss' for {dimension} dimensions ({said}); use Flat or IVF1024,SQ8"
        ) from None
    plain = (faiss.IndexFlat, faiss.IndexFlatIP)
    ivf = isinstance(index, faiss.IndexIVF) and type(faiss.downcast_index(index.quantizer)) in plain
    if not (ivf or type(index) in plain):
        raise InputError(
            f"codec {codec!r} makes a {type(index).__name__}, which cannot be cut into shards that answer as the "
            "whole; use Flat, or IVF with Flat, SQ8, PQ and the like"
        )
    return index


def train_codec(codec: str, fragments: Fragments, dimension: int, seed: int) -> Any:
    """One trained, empty index for all shards, on a sample stratified by language: 64 passages a list, at least 256
    of each language or all it has, and of long ones all pieces."""
    index = make_codec(codec, dimension)
    if is_flat(codec):
        return index
    wanted = max(64 * index.nlist, 10_000)
    if fragments.n_vectors < index.nlist:
        raise InputError(
            f"codec {codec!r} has more lists than there are passages ({fragments.n_vectors}); use Flat, or fewer lists"
        )
    sample = stratified_sample(fragments.row_languages(), wanted, 256, seed)
    index.cp.seed = seed
    # Fewer than faiss' 39 a list is for us to decide, not a warning on the console.
    index.cp.min_points_per_centroid = 1
    faiss.omp_set_num_threads(min(faiss.omp_get_max_threads(), usable_cpus()))  # faiss takes the whole machine
    index.train(fragments.vectors(sample))
    return index


def stratified_sample(row_languages: np.ndarray, wanted: int, at_least: int, seed: int) -> np.ndarray:
    """Sorted global ids, `wanted` in all or a few more: each language by its share, but `at_least` of it (or all)."""
    rng = np.random.default_rng(seed)
    chosen = []
    for language in np.unique(row_languages):
        ids = np.flatnonzero(row_languages == language)
        count = min(len(ids), max(at_least, round(wanted * len(ids) / len(row_languages))))
        chosen.append(rng.choice(ids, size=count, replace=False))
    return np.sort(np.concatenate(chosen))
