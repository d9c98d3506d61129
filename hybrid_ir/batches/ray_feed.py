"""Feeds: a rank's stream of batches, from Ray Data actors on any node or from a thread in the worker. Both yield the same.

Ray Data emits chunks of consecutive global batches, in order; an index actor with a bounded window hands each rank the
reference of the chunk that holds its step. (Splitting the dataset over the ranks instead was tried: its order is not
promised, and uneven blocks gave ranks rows of different steps without a word.)
"""

from __future__ import annotations

import pickle
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import ray
import ray.data

from hybrid_ir.batches.builder import Batch, BatchBuilder

STEPS_PER_CHUNK = 8
CHUNKS_AHEAD = 4
CHUNKS_PER_EXECUTION = 2048
"""One Ray Data execution makes this many chunks: its inputs are put into the object store up front."""


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


def in_process_feed(builder: BatchBuilder, start: int, end: int, ahead: int = STEPS_PER_CHUNK) -> Iterator[Batch]:
    """Batches of steps start..end-1, built by one thread up to `ahead` steps early. An error of the builder is raised here."""
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


class BuildChunk:
    """Ray Data's stage: first step of a chunk in, its batches out, one row a step."""

    def __init__(self, make_builder: Callable[[], BatchBuilder]) -> None:
        self._builder = make_builder()

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        (first,), (last,) = rows["first_step"], rows["end_step"]
        steps = range(int(first), int(last))
        # Pickled by us: a batch is ragged arrays, which Arrow would copy and convert at both ends.
        return {
            "step": np.asarray(steps, dtype=np.int64),
            "batch": np.asarray([pickle.dumps(self._builder.build(s), protocol=5) for s in steps], dtype=object),
        }


def chunks(
    make_builder: Callable[[], BatchBuilder], start: int, end: int, *, actors: int, cpus_per_actor: float
) -> ray.data.Dataset:
    """A Dataset whose n-th block holds the batches of steps start + n * STEPS_PER_CHUNK onward."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    items = [{"first_step": s, "end_step": min(s + STEPS_PER_CHUNK, end)} for s in range(start, end, STEPS_PER_CHUNK)]
    # from_items has no read tasks: ray.data.range asks one CPU for each of its own, and hung on a machine of two.
    return ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        BuildChunk,
        fn_constructor_args=(make_builder,),
        batch_size=None,
        num_cpus=cpus_per_actor,
        compute=ray.data.ActorPoolStrategy(size=actors),
    )


class ChunkIndex:
    """Runs the Dataset and hands out references to its blocks by number, holding `CHUNKS_AHEAD` that some rank still needs.

    An actor of one worker group: rank 0 makes it inside the training function, so it dies with its group, and a restarted
    group starts one of its own at the step it resumes from.
    """

    def __init__(
        self,
        make_builder: Callable[[], BatchBuilder],
        start: int,
        end: int,
        workers: int,
        actors: int,
        cpus_per_actor: float,
    ) -> None:
        self._taken = [0] * workers
        self._window: dict[int, Any] = {}
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._arguments = (make_builder, start, end, actors, cpus_per_actor)
        threading.Thread(target=self._run, name="ray-data", daemon=True).start()

    def block(self, rank: int, number: int) -> list[Any]:
        """[reference] of chunk `number`; waits until it is there. Ranks ask in order, each at its own pace."""
        with self._changed:
            self._taken[rank] = number
            for done in [n for n in self._window if n < min(self._taken)]:
                del self._window[done]
            self._changed.notify_all()
            self._changed.wait_for(lambda: number in self._window or self._error is not None)
            if number not in self._window:
                assert self._error is not None
                raise self._error
            return [self._window[number]]

    def _run(self) -> None:
        make_builder, start, end, actors, cpus_per_actor = self._arguments
        number = 0
        try:
            for first in range(start, end, CHUNKS_PER_EXECUTION * STEPS_PER_CHUNK):
                last = min(first + CHUNKS_PER_EXECUTION * STEPS_PER_CHUNK, end)
                dataset = chunks(make_builder, first, last, actors=actors, cpus_per_actor=cpus_per_actor)
                for bundle in dataset.iter_internal_ref_bundles():
                    for reference in bundle.block_refs:
                        with self._changed:
                            self._changed.wait_for(lambda: len(self._window) < CHUNKS_AHEAD)
                            self._window[number] = reference
                            self._changed.notify_all()
                        number += 1
            raise IndexError(f"a step beyond the last one, {end - 1}, was asked for")
        except BaseException as error:  # raised to the ranks that wait, by block()
            with self._changed:
                self._error = error
                self._changed.notify_all()


def ray_data_feed(index: Any, rank: int, start: int, end: int) -> Iterator[Batch]:
    """Batches of steps start..end-1 for one rank, from the `ChunkIndex` actor `index`; the next chunk is asked for early."""
    count = -(-(end - start) // STEPS_PER_CHUNK)
    ahead: Any = index.block.remote(rank, 0) if count else None
    for number in range(count):
        (reference,) = ray.get(ahead)
        block: Any = ray.get(reference)
        ahead = index.block.remote(rank, number + 1) if number + 1 < count else None
        first = start + number * STEPS_PER_CHUNK
        for offset, (step, payload) in enumerate(zip(block["step"].to_pylist(), block["batch"], strict=True)):
            assert step == first + offset, f"chunk {number} holds step {step}, expected {first + offset}"
            yield pickle.loads(payload.as_py())
