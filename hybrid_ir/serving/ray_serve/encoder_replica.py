"""The encoder as a Serve replica. Who deploys it imports no torch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from hybrid_ir.index import read_manifest


class EncoderReplica:
    """What Serve runs, when the encoder has a deployment of its own."""

    def __init__(self, index: str, checkpoint: str | None, threads: int) -> None:
        from hybrid_ir.serving.query_encoder import QueryEncoder

        # Loaded in the thread that runs it: torch's number of threads is set by thread.
        self._thread = ThreadPoolExecutor(1)
        self._encoder = self._thread.submit(QueryEncoder, index, read_manifest(index), checkpoint, threads).result()

    async def embed(self, texts: Sequence[str], role: str) -> tuple[np.ndarray, int]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._encoder.embed, texts, role)

    async def ping(self) -> None:
        pass
