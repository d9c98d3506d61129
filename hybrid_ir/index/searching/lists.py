"""What stands in the inverted lists of a shard: how many passages, whose codes, and which are the best by these.

In: an open shard of an IVF codec. Out: sizes of its lists by language, and the rows and codes of one list; of queries,
the best rows in some lists.

Q queries, D dimensions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

if TYPE_CHECKING:
    from hybrid_ir.index.shard import Shard


def list_sizes(shard: Shard) -> dict[str, np.ndarray]:
    """Language -> (lists,): its living passages in each inverted list of this shard; of passages in pieces, each
    piece."""
    lists: Any = shard.index.invlists
    names = sorted(shard.entry.languages, key=lambda name: shard.entry.languages[name])
    starts = [shard.entry.languages[name][0] for name in names]
    sizes = np.zeros((len(names), shard.lists), dtype=np.int64)
    for number in range(shard.lists):
        if count := lists.list_size(number):
            rows = faiss.rev_swig_ptr(lists.get_ids(number), count)
            rows = rows if shard.pieces is None else shard.pieces.owner[rows]
            rows = rows if shard.living is None else rows[shard.living[rows]]
            places = np.searchsorted(starts, rows, side="right") - 1
            sizes[:, number] = np.bincount(places, minlength=len(names))
    return dict(zip(names, sizes, strict=True))


def list_codes(shard: Shard, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the vectors in an inverted list and the code of each, deleted ones too."""
    lists: Any = faiss.downcast_InvertedLists(shard.index.invlists)
    packer: Any = getattr(lists, "packer", None)  # of codes in blocks
    size = lists.code_size if packer is None else packer.code_size
    if not (count := lists.list_size(number)):
        return np.empty(0, np.int64), np.empty((0, size), np.uint8)
    rows = faiss.rev_swig_ptr(lists.get_ids(number), count)
    if packer is None:
        return rows, faiss.rev_swig_ptr(lists.get_codes(number), count * size).reshape(count, size)
    blocks = faiss.rev_swig_ptr(lists.get_codes(number), -(-count // packer.nvec) * packer.block_size)
    codes = np.empty((count, size), np.uint8)
    for n in range(count):
        block = blocks[n // packer.nvec * packer.block_size :]
        packer.unpack_1_c(faiss.swig_ptr(block), n % packer.nvec, faiss.swig_ptr(codes[n]))
    return rows, codes


def codec_best(
    index: Any, vectors: np.ndarray, lists: np.ndarray, list_scores: np.ndarray, ask: int, parameters: Any
) -> tuple[np.ndarray, np.ndarray]:
    """(Q, ask) codec scores and rows of the best in the lists of each of the queries (Q, D), best first; row -1 where
    there are no more."""
    vectors, lists, list_scores = (np.ascontiguousarray(a) for a in (vectors, lists, list_scores))
    codec_scores = np.empty((len(vectors), ask), dtype=np.float32)
    rows = np.empty((len(vectors), ask), dtype=np.int64)
    index.search_preassigned_c(
        len(vectors), faiss.swig_ptr(vectors), ask, faiss.swig_ptr(lists), faiss.swig_ptr(list_scores),
        faiss.swig_ptr(codec_scores), faiss.swig_ptr(rows), False, parameters,
    )  # fmt: skip
    return codec_scores, rows
