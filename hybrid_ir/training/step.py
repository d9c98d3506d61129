"""One optimiser step. In: an embedder and a global batch. Out: gradients in its parameters, then an update of them.

Pure torch and no Ray, so that it can be benchmarked, tested and reused alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from hybrid_ir.batches import Batch, slice_sizes
from hybrid_ir.encoders import Embedder, Tokens, to_device
from hybrid_ir.training.losses.contrastive import (
    contrastive_loss,
    false_negative_mask,
    false_positive_mask,
    false_positive_mask_of_passages,
    same_questions,
)
from hybrid_ir.training.losses.logits import Masks
from hybrid_ir.training.losses.settings import LossSettings
from hybrid_ir.training.losses.teacher import lesson_of


def across_ranks(embedder: Embedder, exchange: str) -> DistributedDataParallel:
    """The embedder with one all-reduce of its gradient a step, of float32 or, for `exchange` bf16, of that."""
    device = embedder.model.device
    ranks = DistributedDataParallel(
        embedder,
        device_ids=[device.index] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        broadcast_buffers=False,  # an encoder's are the numbers of its positions
    )
    if exchange == "bf16":
        # By its own name torch refuses it without NCCL, though gloo adds bf16 up as well.
        ranks.register_comm_hook(None, lambda group, bucket: bf16_compress_hook(group, bucket))
    return ranks


def backward(
    embedder: Embedder | DistributedDataParallel, batch: Batch, settings: LossSettings, rank: int, workers: int
) -> Tensor:
    """Put the gradient of the global batch's mean loss into the parameters; return this rank's share of that loss
    (the mean over ranks is the loss). Under DDP every rank must call it for the same step; it makes one all-reduce
    of the gradient. Nothing waits for a GPU."""
    # Texts are embedded on the rank that has their rows. Ids are the global batch's: masks need no communication.
    rows = batch.slice(rank, workers)
    tokens = batch.query_tokens[rows] + batch.passage_tokens[rows]
    local_sizes = [rows.stop - rows.start] * 2
    negative_sizes = None
    if settings.negatives != "in_batch":
        assert batch.negative_tokens is not None
        negative_sizes = batch.negative_sizes(workers)
        start = sum(negative_sizes[:rank])
        tokens += batch.negative_tokens[start : start + negative_sizes[rank]]
        local_sizes.append(negative_sizes[rank])
    parallel = batch.parallel_slice(rank, workers) if batch.parallel_tokens is not None else None
    if batch.parallel_tokens is not None and parallel is not None:
        tokens += batch.parallel_tokens[parallel]
        local_sizes.append(parallel.stop - parallel.start)

    module = embedder.module if isinstance(embedder, DistributedDataParallel) else embedder
    device = module.model.device
    ids_BLS = to_device(batch.passage_ids_BLS, device)
    language_B = to_device(batch.passage_language_B, device)
    same_question_P2 = None
    if batch.repeats_a_question:
        query_ids_BM = to_device(batch.query_ids_BM, device)
        same_question_P2 = same_questions(query_ids_BM, to_device(batch.query_language_B, device))
    ours = (ids_BLS, language_B, rows, same_question_P2)
    false_negatives_bN = None
    if settings.negatives != "in_batch":
        assert batch.negative_ids_N is not None
        negative_ids_N = to_device(batch.negative_ids_N, device)
        language_N = to_device(batch.passage_language_B[batch.negative_row_N], device)
        false_negatives_bN = false_negative_mask(ids_BLS, negative_ids_N, language_N, rows, same_question_P2)
    masks = Masks(
        false_positive_mask(*ours),
        false_positive_mask_of_passages(*ours) if settings.symmetric else None,
        false_negatives_bN,
    )

    parallel_row_a = None
    if batch.parallel_row is not None and parallel is not None:
        parallel_row_a = to_device(batch.parallel_row[parallel] - rows.start, device)

    def loss_of(vectors: Tensor) -> Tensor:
        queries_bD, passages_bD, *more = vectors.split(local_sizes)
        return contrastive_loss(
            queries_bD,
            passages_bD,
            more.pop(0) if negative_sizes is not None else None,
            more.pop(0) if parallel is not None else None,
            start=rows.start,
            masks=masks,
            sizes=slice_sizes(batch.size, workers),
            negative_sizes=negative_sizes,
            temperature=settings.temperature,
            symmetric=settings.symmetric,
            negatives=settings.negatives,
            dimensions=settings.dimensions,
            lesson=None if settings.teacher is None else lesson_of(batch, masks, rows, queries_bD, settings),
            alignment=settings.alignment,
            parallel_row_a=parallel_row_a,
        )

    if settings.cached:
        with module.same_weights():
            return _cached_backward(embedder, module, tokens, loss_of)
    loss = loss_of(embedder(tokens))
    loss.backward()
    return loss.detach()


def _cached_backward(
    embedder: nn.Module, module: Embedder, tokens: Tokens, loss_of: Callable[[Tensor], Tensor]
) -> Tensor:
    """Gradient cache (Gao et al., arXiv 2101.06983), in its steps: embed without a graph, take the loss's gradient at
    the embeddings, then embed again micro-batch by micro-batch and push that gradient through. Dropout must repeat
    itself exactly, so the generator's state is kept for each micro-batch."""
    batches = module.micro_batches(tokens)
    device = module.model.device

    # 1. Forward without a graph.
    states, parts = [], []
    with torch.no_grad():
        for batch in batches:
            states.append(_random_state(device))
            parts.append(module(tokens[batch], [np.arange(len(batch))]))
    vectors = torch.empty(len(tokens), parts[0].shape[1], dtype=parts[0].dtype, device=device)
    for batch, part in zip(batches, parts, strict=True):
        vectors[to_device(batch, device)] = part

    # 2. Gradient cache.
    vectors.requires_grad_(True)
    loss = loss_of(vectors)
    loss.backward()
    cache = vectors.grad
    assert cache is not None

    # 3. Forward again with a graph. DDP reduces once, with the last micro-batch: ranks may differ in their number. With
    # it the vocabulary's matrix gets its gradient, which is large: no micro-batch's activations stand beside it.
    after = _random_state(device)
    without_reducing = embedder.no_sync if isinstance(embedder, DistributedDataParallel) else nullcontext
    with module.one_look_up(tokens) as look_up:
        if look_up is not None:
            look_up.apart()
        for n, (batch, state) in enumerate(zip(batches, states, strict=True)):
            last = n == len(batches) - 1
            rows, of_rows = look_up.joined() if look_up is not None and last else (None, None)
            with nullcontext() if last else without_reducing():
                _set_random_state(device, state)
                starts = [embedder(tokens[batch], [np.arange(len(batch))])]
                gradients = [cache[to_device(batch, device)]]
                if rows is not None and of_rows is not None:
                    starts, gradients = [*starts, rows], [*gradients, of_rows]
                torch.autograd.backward(starts, gradients)
    _set_random_state(device, after)
    return loss.detach()


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


def make_optimizer(module: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW; biases and layer norms (vectors) are not decayed."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, fused=True)


def learning_rate_at(step: int, *, peak: float, warmup_steps: int, steps: int) -> float:
    """Linear warm-up to `peak`, then linear decay that would reach zero one step after the last. A function of the step
    alone, so that resuming needs no scheduler state."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return peak * (steps - step) / max(steps - warmup_steps, 1)


def update(
    optimizer: torch.optim.Optimizer, module: nn.Module, learning_rate: float, gradient_clip: float | None
) -> Tensor:
    """Clip, step, clear. Returns the gradient's norm before clipping. Raises FloatingPointError if it is not finite,
    but on a GPU leaves it to whoever reads it (`finite`): to ask for it here would wait for it."""
    parameters = [p for p in module.parameters() if p.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(parameters, gradient_clip if gradient_clip is not None else float("inf"))
    if norm.device.type == "cpu":
        finite(float(norm))
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def finite(norm: float) -> float:
    """The norm of a gradient. Raises FloatingPointError for one that no training should go on from."""
    if not np.isfinite(norm):
        raise FloatingPointError(f"the gradient is {norm}: lower train.learning_rate or raise loss.temperature")
    return norm
