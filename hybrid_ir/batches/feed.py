"""The in-process feed. In: a builder and a range of steps. Out: their batches, built ahead by a thread. No Ray."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from hybrid_ir.batches.batch import Batch
from hybrid_ir.batches.builder import BatchBuilder

STEPS_AHEAD = 8


class Waited:
    """Iterates batches and adds up the seconds the caller waited for them."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self.seconds = 0.0

    def __next__(self) -> Batch:
        start = time.perf_counter()
        batch = next(self._batches)
        self.seconds += time.perf_counter() - start
        return batch

    def close(self) -> None:
        self._batches.close()  # type: ignore[attr-defined]


def in_process_feed(builder: BatchBuilder, start: int, end: int, ahead: int = STEPS_AHEAD) -> Iterator[Batch]:
    """Batches of steps start..end-1, built by one thread up to `ahead` steps early. Raises the builder's errors."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="batch-builder")
    waiting = deque(thread.submit(builder.build, step) for step in range(start, min(start + ahead, end)))
    try:
        for step in range(start, end):
            batch = waiting.popleft().result()
            if step + ahead < end:
                waiting.append(thread.submit(builder.build, step + ahead))
            yield batch
    finally:
        thread.shutdown(cancel_futures=True)
