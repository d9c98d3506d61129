"""A CPU's way through the layers in two halves at once. In: vectors of tokens. Out: what the layers make of them.

An operation of a layer is divided among a CPU's threads, and all but one of them wait while Python calls the next one,
memory is asked for or dropout is drawn. Here half of the threads go through all layers with half of the tokens, and the
rest with the others, so that one half computes while the other one is told what to do.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

TOKENS_A_HALF = 512
"""At least so many: for fewer, handing them over costs more than it brings."""
Through = Callable[[Tensor], Tensor]
T = TypeVar("T")


def middle_of(lengths: np.ndarray, device: torch.device) -> int | None:
    """The first text of the second half, where both halves cost the same; None = they are not worth it. `lengths` are
    those of texts laid end to end, ascending."""
    if device.type != "cpu" or torch.get_num_threads() % 2 or int(lengths.sum()) < 2 * TOKENS_A_HALF:
        return None
    costs = np.cumsum(lengths * (1 + lengths / 480))
    first = int(np.searchsorted(costs, costs[-1] / 2)) + 1
    return first if first < len(lengths) else None


def in_halves(x: Tensor, rows: int, through: Sequence[Through], parameters: Sequence[Tensor]) -> Tensor:
    """(T, D) -> (T, D): the first `rows` of x by one function, the rest by the other, at once. `parameters` are all
    that the functions have a gradient for, and their gradients are added in the order of the halves."""
    if torch.is_grad_enabled():
        return _Halves.apply(x, rows, tuple(through), *parameters)
    inference = torch.is_inference_mode_enabled()

    def half(given: tuple[Through, Tensor]) -> Tensor:
        with torch.inference_mode(inference), torch.no_grad():
            return given[0](given[1])

    return torch.cat(_at_once(half, zip(through, x.split([rows, len(x) - rows]), strict=True)))


class _Halves(torch.autograd.Function):
    """Each half has a graph of its own, which the way back goes through on its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: int, through: tuple[Through, ...], *parameters: Tensor) -> Tensor:
        ctx.sizes, ctx.parameters = [rows, len(x) - rows], parameters
        ctx.starts = [part.detach().requires_grad_() for part in x.split(ctx.sizes)]

        def half(given: tuple[Through, Tensor]) -> Tensor:
            with torch.enable_grad():
                return given[0](given[1])

        ctx.ends = _at_once(half, zip(through, ctx.starts, strict=True))
        return torch.cat([end.detach() for end in ctx.ends])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        parameters = [parameter for parameter in ctx.parameters if parameter.requires_grad]

        def half(given: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
            end, start, of_end = given
            return torch.autograd.grad(end, [start, *parameters], of_end)

        (of_first, *ours), (of_second, *theirs) = _at_once(
            half, zip(ctx.ends, ctx.starts, grad.split(ctx.sizes), strict=True)
        )
        ctx.ends = ctx.starts = None  # their memory is free as soon as it has been read
        added = iter([one.add_(other) for one, other in zip(ours, theirs, strict=True)])
        of_parameters = (next(added) if parameter.requires_grad else None for parameter in ctx.parameters)
        return (torch.cat([of_first, of_second]), None, None, *of_parameters)


def _at_once(work: Callable[[Any], T], given: Any) -> list[T]:
    """What `work` makes of both, each with half of this thread's threads. Raises what `work` raises."""
    return list(_pool(torch.get_num_threads() // 2, os.getpid()).map(work, given))


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Two threads that have so many each. `process` is the id of this process: a fork has none of its parent's."""
    here = torch.get_num_threads()
    pool = ThreadPoolExecutor(2, "half", torch.set_num_threads, (threads,))
    list(pool.map(partial(threading.Barrier(2).wait), [60, 60]))  # both have started
    torch.set_num_threads(here)  # which torch tells all threads that are yet to come
    return pool
