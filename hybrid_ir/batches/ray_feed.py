"""Ray Data's feed. In: a builder and a range of steps. Out: a rank's batches in order, built by actors on any node.

It yields what the in-process feed yields. Ray Data emits chunks of consecutive global batches, in order. An index actor
with a bounded window hands each rank the reference of the chunk that holds its step. (Splitting the dataset over the
ranks instead was tried: its order is not promised, and uneven blocks silently gave ranks rows of different steps.)
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from hybrid_ir.batches.batch import Batch
from hybrid_ir.batches.builder import BatchBuilder

STEPS_PER_CHUNK = 8
CHUNKS_AHEAD = 4
CHUNKS_PER_EXECUTION = 2048
"""One Ray Data execution makes this many chunks: its inputs are put into the object store up front."""


class BuildChunk:
    """Ray Data's stage: first step of a chunk in, its batches out, one row a step."""

    def __init__(self, make_builder: Callable[[], BatchBuilder]) -> None:
        self._builder = make_builder()

    def __call__(self, rows: dict[str, np.ndarray]) -> pa.Table:
        (first,), (last,) = rows["first_step"], rows["end_step"]
        steps = range(int(first), int(last))
        batches, texts = zip(*(_pickled(self._builder.build(step)) for step in steps), strict=True)
        return pa.table({
            "step": pa.array(steps, pa.int64()),
            "batch": pa.array(batches, pa.large_binary()),
            "texts": pa.array(texts, pa.large_list(pa.large_binary())),
        })  # fmt: skip


def _pickled(batch: Batch) -> tuple[bytes, list[bytes]]:
    """A batch for `_unpickled`: its texts' tokens apart, of which a rank reads its slice alone, and all else."""
    texts: list[bytes] = []

    def stays(buffer: pickle.PickleBuffer) -> bool:
        is_tokens = memoryview(buffer).format == "i"  # int32; ids and offsets are int64
        if is_tokens:
            texts.append(bytes(buffer.raw()))
        return not is_tokens

    return pickle.dumps(batch, protocol=5, buffer_callback=stays), texts


def _unpickled(batch: Any, texts: Any) -> Batch:
    """`batch` and `texts` of a row of a chunk. Its tokens lie where the chunk lies, and are not copied."""
    return pickle.loads(batch.as_buffer(), buffers=[text.as_buffer() for text in texts.values])


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
    """Runs the Dataset and hands out references to its blocks by number. Holds `CHUNKS_AHEAD` that a rank still needs.

    An actor of one worker group: rank 0 makes it inside the training function, so it dies with its group, and a
    restarted group starts one of its own at the step it resumes from.
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
        make_chunks = partial(chunks, make_builder, actors=actors, cpus_per_actor=cpus_per_actor)
        threading.Thread(target=self._run, args=(make_chunks, start, end), name="ray-data", daemon=True).start()

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

    def _run(self, make_chunks: Callable[[int, int], ray.data.Dataset], start: int, end: int) -> None:
        number = 0
        try:
            for first in range(start, end, CHUNKS_PER_EXECUTION * STEPS_PER_CHUNK):
                dataset = make_chunks(first, min(first + CHUNKS_PER_EXECUTION * STEPS_PER_CHUNK, end))
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
    """Batches of steps start..end-1 for one rank, from the `ChunkIndex` actor; the next chunk is asked for early."""
    count = -(-(end - start) // STEPS_PER_CHUNK)
    ahead: Any = index.block.remote(rank, 0) if count else None
    for number in range(count):
        (reference,) = ray.get(ahead)
        block: Any = ray.get(reference)
        ahead = index.block.remote(rank, number + 1) if number + 1 < count else None
        first = start + number * STEPS_PER_CHUNK
        rows = zip(block["step"].to_pylist(), block["batch"], block["texts"], strict=True)
        for offset, (step, batch, texts) in enumerate(rows):
            assert step == first + offset, f"chunk {number} holds step {step}, expected {first + offset}"
            yield _unpickled(batch, texts)
