"""Embedding: token ids or texts in, unit vectors out, in micro-batches of like lengths. What DDP wraps."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from hybrid_ir.encoders.packed import LayerWeights, can_pack, token_vectors, weights_as_used
from hybrid_ir.encoders.tokens import COUNTS_TWICE, TextReader, Tokens, micro_batches, read_ahead
from hybrid_ir.encoders.transfer import to_device
from hybrid_ir.types import InputError


class LookUp:
    """The rows of a vocabulary's matrix that a step reads."""

    def __init__(self, rows: Tensor) -> None:
        self._rows, self._apart = rows, rows.detach().requires_grad_()
        self.read = rows

    def apart(self) -> None:
        """From here on the gradient of what reads them is added up in the rows alone, until `joined`."""
        self.read = self._apart

    def joined(self) -> tuple[Tensor, Tensor | None]:
        """From here on it goes to the matrix. Returns the rows and the gradient that they have from before, or None: a
        way back has to start from these too."""
        self.read = self._rows
        return self._rows, self._apart.grad


class Embedder(nn.Module):
    """Token ids -> unit vectors, in micro-batches of like lengths. What DDP wraps.

    `frozen`: the model's weights do not change while this is used, so that copies of them are made once. `flash`: on a
    GPU texts are not padded; None = where that can be. `precision`: auto, bf16 or fp32, or int8 to encode on a CPU.
    `recompute`: layers are computed once more on the way back, and hold less memory until then. Raises InputError where
    this encoder, its device or its precision does not allow that.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        precision: str,
        micro_batch_tokens: int | None,
        frozen: bool = False,
        flash: bool | None = None,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.precision = resolve_precision(precision, model.device.type)
        self.micro_batch_tokens = micro_batch_tokens or (4096 if model.device.type == "cpu" else 32768)
        self.pad_id = model.tokenizer.pad_token_id
        self._frozen, self._flash, self._recompute = frozen, flash, recompute
        self._weights: list[LayerWeights] | None = None
        if precision == "int8" and (model.device.type != "cpu" or not can_pack(getattr(model[0], "model", None), None)):
            raise InputError(
                "8 bits are for BERT, RoBERTa and XLM-R on a CPU; here are "
                f"{type(getattr(model[0], 'model', None)).__name__} and {model.device.type}; take fp32"
            )
        if flash and (model.device.type != "cuda" or not can_pack(model[0].model, self._dtype)):
            raise InputError(
                "train.flash_attention needs an NVIDIA GPU from Ampere on, train.precision=bf16 and BERT's kin; "
                f"here are {model.device.type}, {self.precision} and {type(model[0].model).__name__}; "
                "set train.flash_attention=null"
            )
        if recompute and not self._packs():
            transformer: Any = model[0]
            if not getattr(transformer.auto_model, "supports_gradient_checkpointing", False):
                raise InputError(
                    f"{type(transformer.auto_model).__name__} cannot compute its layers once more: "
                    "set train.gradient_checkpointing=false, and loss.cached=true where memory is short"
                )
            transformer.auto_model.gradient_checkpointing_enable({"use_reentrant": False})

    def micro_batches(self, tokens: Tokens) -> list[np.ndarray]:
        packs = self._packs()
        keeps_scores = self.training and packs and self.model.device.type == "cpu"
        twice_at = COUNTS_TWICE if keeps_scores else None
        return micro_batches(tokens.lengths, self.micro_batch_tokens, padded=not packs, twice_at=twice_at)

    def forward(self, tokens: Tokens, batches: Sequence[np.ndarray] | None = None) -> Tensor:
        """(len(tokens), D) float32 in the order of `tokens`. `batches` are index arrays that cover them once."""
        batches = self.micro_batches(tokens) if batches is None else batches
        with self.same_weights(), self.one_look_up(tokens):
            vectors = torch.cat([self._embed(tokens[batch]) for batch in batches])
        return vectors[to_device(np.argsort(np.concatenate(list(batches))), vectors.device)]

    def _embed(self, tokens: Tokens) -> Tensor:
        # Pooling, dense and normalising stay in float32: bf16 keeps 8 bits, too few for a cosine divided by 0.05.
        weights = self._weights_as_used()
        order = np.argsort(tokens.lengths, kind="stable")
        features = self._padded(tokens) if weights is None else self._packed(tokens[order], weights)
        for module in list(self.model)[1:]:
            features = module(features)
        vectors = features["sentence_embedding"]
        return vectors if weights is None else vectors[to_device(np.argsort(order), vectors.device)]

    def _weights_as_used(self) -> list[LayerWeights] | None:
        """None: an encoder, or a device, whose texts are padded."""
        if self._weights is None and self._packs():
            transformer: Any = self.model[0].model
            self._weights = weights_as_used(transformer, self._dtype)
        return self._weights

    def _packs(self) -> bool:
        transformer: Any = getattr(self.model[0], "model", None)  # an ONNX session has none
        wanted = self._flash is not False or self.model.device.type == "cpu"
        return self._weights is not None or (wanted and can_pack(transformer, self._dtype))

    @property
    def _dtype(self) -> torch.dtype | None:
        """Of the weights as used; None = their own."""
        return {"bf16": torch.bfloat16, "int8": torch.int8}.get(self.precision)

    def _packed(self, tokens: Tokens, weights: list[LayerWeights]) -> dict[str, Any]:
        """As sentence-transformers' pooling takes what was not padded: text after text, where each begins, and which
        each token is of."""
        device = self.model.device
        text = np.repeat(np.arange(len(tokens)), tokens.lengths)
        return {
            "token_embeddings": token_vectors(self.model[0].model, weights, tokens, recompute=self._recompute)[None],
            "cu_seq_lens_q": to_device(tokens.offsets, device),
            "seq_idx": to_device(text, device)[None],
        }

    def _padded(self, tokens: Tokens) -> dict[str, Any]:
        device = self.model.device
        ids, mask = tokens.padded(self.pad_id)
        features: dict[str, Any] = {
            "input_ids": to_device(ids, device),
            "attention_mask": to_device(mask, device),
        }
        bf16 = torch.autocast(device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()
        with bf16, self._attention():
            features = self.model[0](features)
        if self.precision == "bf16":
            features["token_embeddings"] = features["token_embeddings"].float()
        return features

    @contextmanager
    def same_weights(self) -> Iterator[None]:
        """Context in which the model's weights do not change, so that copies of them are made once."""
        outermost = not self._frozen and self._weights is None
        try:
            yield
        finally:
            if outermost:
                self._weights = None

    @contextmanager
    def one_look_up(self, tokens: Tokens) -> Iterator[LookUp | None]:
        """Context in which the rows of these tokens' pieces are taken out of the vocabulary's matrix once, and
        micro-batches look up among them. The gradient of a look-up is as large as the matrix that it looks into: of 250
        thousand rows it is 384 MB, cleared and added for every micro-batch, where a step touches some thousand rows.

        None: there is no gradient, or this is within another look-up, whose rows are read."""
        transformer: Any = self.model[0].model
        pieces = transformer.get_input_embeddings()
        trained = torch.is_grad_enabled() and isinstance(pieces, nn.Embedding) and pieces.weight.requires_grad
        # What torch.compile has compiled it would compile again, for each step's rows.
        if not trained or transformer._compiled_call_impl is not None or "forward" in vars(pieces):
            yield None
            return
        used = to_device(np.union1d(tokens.flat, self.pad_id).astype(np.int64), pieces.weight.device)
        place = torch.zeros(pieces.num_embeddings, dtype=torch.int64, device=used.device)
        place[used] = torch.arange(len(used), device=used.device)
        if used.device.type == "cpu":
            look_up = LookUp(nn.functional.embedding(used, pieces.weight, pieces.padding_idx))
            vars(pieces)["forward"] = lambda ids: nn.functional.embedding(place[ids], look_up.read)
        else:  # `embedding` sorts on the way back, and `index_select` adds
            look_up = LookUp(pieces.weight.index_select(0, used))
            vars(pieces)["forward"] = lambda ids: look_up.read.index_select(0, place[ids].flatten()).view(
                *ids.shape, -1
            )
        try:
            yield look_up
        finally:
            del vars(pieces)["forward"]  # which stood before the class's own

    def _attention(self) -> AbstractContextManager[Any]:
        """Training in bf16 on a CPU: torch's fused attention takes 12 times as long as the plain one in its backward
        pass over texts of some twenty tokens (torch 2.13, AVX512-BF16), two fifths of a whole step."""
        plain = self.precision == "bf16" and self.model.device.type == "cpu" and torch.is_grad_enabled()
        return sdpa_kernel(SDPBackend.MATH) if plain else nullcontext()


@torch.inference_mode()
def encode(
    model: SentenceTransformer,
    texts: Sequence[str],
    *,
    role: str,
    languages: str | Sequence[str] | None = None,
    precision: str = "auto",
    token_budget: int | None = None,
    progress: Callable[[int], None] = lambda texts: None,
    cut: np.ndarray | None = None,
) -> np.ndarray:
    """(len(texts), D) float32 unit vectors, in the order of `texts`. `role` picks the prompt: query, document or a task
    of the encoder's. So does the language, of all texts or of each, where the encoder has other prompts in some.

    Texts are sorted by length over windows, so that memory does not grow with their number. `cut`, a bool array of
    len(texts), is filled with which of them were longer than the encoder reads.
    """
    was_training = model.training
    model.eval()
    token_budget = token_budget or (4096 if model.device.type == "cpu" else 65536)
    embedder = Embedder(model, precision=precision, micro_batch_tokens=token_budget, frozen=True)
    dimension = model.get_embedding_dimension()
    assert dimension is not None
    reader = TextReader.of(model)
    out = np.empty((len(texts), dimension), dtype=np.float32)
    for start, where, tokens in read_ahead(reader, texts, role, languages):
        part = slice(start, start + len(where))
        if cut is not None:
            cut[part] = tokens.cut[where]
        for batch in embedder.micro_batches(tokens):
            out[start + batch] = embedder._embed(tokens[batch]).float().cpu().numpy()
            progress(len(batch))
        out[part] = out[start + where]
        progress(len(where) - len(tokens))
    model.train(was_training)
    return out


def best_device() -> str:
    """`cuda` where this machine has a GPU, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_precision(precision: str, device: str) -> str:
    """ "auto" as what is faster here: bf16 on a GPU or a CPU with bf16 instructions (AMX, AVX512-BF16), fp32 on others,
    which emulate bf16 (GPUs before NVIDIA's Ampere; on a CPU measured at a quarter of fp32's speed).

    The environment variable HYBRID_IR_AUTO_PRECISION (bf16 or fp32) says what "auto" means instead, for results that
    must not depend on the machine. Raises InputError for another value of it.
    """
    if precision != "auto":
        return precision
    asked = os.environ.get("HYBRID_IR_AUTO_PRECISION")
    if asked is not None:
        if asked not in ("bf16", "fp32"):
            raise InputError(f"HYBRID_IR_AUTO_PRECISION must be bf16 or fp32, got {asked!r}; unset it to let us choose")
        return asked
    if device.startswith("cuda"):
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if fast else "fp32"


def freeze_unused(embedder: Embedder) -> list[str]:
    """Freeze parameters that no embedding depends on (a BERT pooler that the pooling module ignores) and name them:
    DDP would wait for their gradients for ever."""
    embedder.zero_grad(set_to_none=True)
    # Random weights on the output: the sum of squares of a unit vector has no gradient.
    vectors = embedder(Tokens.of([[0, 1, 2, 3]]))
    (vectors * torch.linspace(-1, 1, vectors.shape[1], device=vectors.device)).sum().backward()
    unused = [name for name, p in embedder.named_parameters() if p.requires_grad and p.grad is None]
    for name, parameter in embedder.named_parameters():
        if name in unused:
            parameter.requires_grad_(False)
    embedder.zero_grad(set_to_none=True)
    return unused
