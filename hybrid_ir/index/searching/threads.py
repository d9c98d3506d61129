"""The threads that share the work on a batch of queries. In: rows of a batch, and what to do with some of them.
Out: the results of all parts, in the order of the rows.

FAISS's own threads divide FAISS's part of a search alone. Its part and numpy's are done here in one go, for some of the
queries by each thread, in which FAISS has one thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import pairwise
from typing import TypeVar

import faiss

QUERIES_A_THREAD = 4
"""At least so many: for fewer, handing them over costs more than it brings."""
T = TypeVar("T")


def in_parts(rows: int, work: Callable[[slice], T]) -> list[T]:
    """What `work` returns of each part of the rows. There are as many parts as FAISS has threads where this is called,
    or fewer, and the first is worked on in the caller's thread. Raises what `work` raises."""
    threads = faiss.omp_get_max_threads()
    parts = min(threads, rows // QUERIES_A_THREAD)
    if parts < 2:
        return [work(slice(0, rows))]
    bounds = [rows * n // parts for n in range(parts + 1)]
    pool = _pool(parts - 1, os.getpid())
    others = [pool.submit(work, slice(start, end)) for start, end in pairwise(bounds[1:])]
    faiss.omp_set_num_threads(1)  # of this thread alone
    try:
        own = work(slice(0, bounds[1]))
    finally:
        faiss.omp_set_num_threads(threads)
        wait(others)
    return [own, *(other.result() for other in others)]


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """`process` is the id of this process: a fork has none of the threads of its parent."""
    return ThreadPoolExecutor(threads, f"search-{threads}", faiss.omp_set_num_threads, (1,))
