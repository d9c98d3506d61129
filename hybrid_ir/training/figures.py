"""What ranks tell each other of a step: its loss, its gradient's norm, and what each of them wishes.

In: figures of one rank, as tensors. Out: those of all, as numbers, without having waited for a GPU.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hybrid_ir.training.step import finite


@dataclass(frozen=True)
class Told:
    """What the ranks told of one step."""

    row: dict[str, Any]
    """What was said of the step, with the mean `loss` over the ranks and the `gradient_norm`."""
    stop: bool
    """A rank was told to stop. All leave at one step, or the others would hang."""
    overdue: bool
    """A rank finds a checkpoint overdue. All save at one step."""


class Figures:
    """Each rank tells in every step. A CPU's figures can be read at once; a GPU's a step later, by when they are there:
    to ask for them in their own step would leave the GPU idle until the next one's work arrives."""

    def __init__(self, workers: int, device: torch.device) -> None:
        self._workers, self._device = workers, device
        self._late = int(device.type == "cuda")
        self._waiting: deque[tuple[dict[str, Any], Tensor, torch.cuda.Event | None]] = deque()

    def tell(self, row: dict[str, Any], loss: Tensor, norm: Tensor, *, stop: bool, overdue: bool) -> None:
        """`norm` is equal on all ranks."""
        wishes = torch.tensor([float(stop), float(overdue)])
        if self._late:
            wishes = wishes.pin_memory().to(self._device, non_blocking=True)
        values = torch.cat([torch.stack([loss, norm]).to(wishes.dtype) / self._workers, wishes])
        if self._workers > 1:
            dist.all_reduce(values)
        arrived = None
        if self._late:
            there = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            values = there.copy_(values, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._waiting.append((row, values, arrived))

    def read(self, *, now: bool = False) -> list[Told]:
        """Of the steps that were not read yet, oldest first; `now`: the last one's too, on a GPU. Raises
        FloatingPointError where a gradient was not finite."""
        told = []
        while len(self._waiting) > (0 if now else self._late):
            row, values, arrived = self._waiting.popleft()
            if arrived is not None:
                arrived.synchronize()
            loss, norm, stop, overdue = values.tolist()
            told.append(Told({**row, "loss": loss, "gradient_norm": finite(norm)}, stop > 0, overdue > 0))
        return told
