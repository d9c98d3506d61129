"""The encoder as a service uses it: checked against the index, and made for small batches.

In: texts and their role. Out: unit vectors, tokens of each text, and which texts were longer than it reads.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from sentence_transformers import SentenceTransformer

from hybrid_ir.encoders import Embedder, TextReader, best_device, check_prompts, check_space, load_encoder
from hybrid_ir.index import Manifest, encoder_folder
from hybrid_ir.serving.int8_loss import check_loss, measure_loss, sample_of_index
from hybrid_ir.serving.release import Encoded
from hybrid_ir.types import InputError


class QueryEncoder:
    """An encoder that is loaded, checked against the index, and made for small batches. Thread-safe."""

    def __init__(
        self, index: str, manifest: Manifest, checkpoint: str | None, threads: int, precision: str = "fp32"
    ) -> None:
        """`precision` is fp32 or int8. Raises InputError if the encoder is not the index's own, or loses too much."""
        torch.set_num_threads(threads)
        self._model: SentenceTransformer = load_encoder(
            checkpoint or encoder_folder(index, manifest), device=best_device()
        )
        check_space(index, manifest.space, manifest.probes, self._model)
        if checkpoint is not None:
            check_prompts(index, manifest.space, self._model)
        self._model.eval()
        self._reader, self._reading = TextReader.of(self._model), threading.Lock()
        # fp32 whatever the machine prefers: a text's vector depends a little on the texts that it is encoded with, and
        # in bf16 enough to change the order of hits (measured: scores differ by 6e-6 in bf16, 4e-7 in fp32).
        # Small micro-batches of like lengths: padding and cache misses cost more than calls (measured: 391 queries/s
        # with 512 tokens, 287 with 4096).
        self._embedder = Embedder(self._model, precision="fp32", micro_batch_tokens=512, frozen=True)
        if precision == "int8":
            whole, self._embedder = self._embedder, self._in_8_bits()
            with torch.inference_mode():
                cosines = measure_loss(self._reader, whole, self._embedder, sample_of_index(index, manifest))
            check_loss(index, cosines)

    def _in_8_bits(self) -> Embedder:
        try:
            return Embedder(self._model, precision="int8", micro_batch_tokens=512, frozen=True)
        except InputError as error:
            raise InputError(f"serve.precision=int8 cannot be: {error}") from error

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str], role: str, threads: int | None = None) -> Encoded:
        """`role` is query, document, or the name of another of its prompts. `threads` are torch's in this thread from
        now on; None = those of before."""
        if threads is not None:
            torch.set_num_threads(threads)
        with self._reading:  # a tokenizer is for one at a time
            tokens = self._reader.read(texts, role)
        return Encoded(self._embedder(tokens).cpu().numpy(), tokens.lengths, tokens.cut)
