"""The in-process feed. In: a builder and a range of steps. Out: their batches, built ahead by a thread. No Ray."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

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
    ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=ahead)
    stopped = threading.Event()

    def put(item: Batch | BaseException) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        for step in range(start, end):
            if stopped.is_set():
                return
            try:
                put(builder.build(step))
            except BaseException as error:  # handed to the consumer, which raises it
                return put(error)

    thread = threading.Thread(target=work, name="batch-builder", daemon=True)
    thread.start()
    try:
        for step in range(start, end):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            assert item.step == step
            yield item
    finally:
        stopped.set()
        thread.join()
