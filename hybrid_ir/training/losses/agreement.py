"""How alike a question ranks in two languages. In: logits of both over the same candidates. Out: a divergence.

Jensen-Shannon's: symmetric, so that neither language is the other's teacher, and at most log 2 a row. arXiv 2604.05684
draws parallel texts together by it. Here it is of what the two questions make of the batch's candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor


def disagreement(one_aX: Tensor, other_aX: Tensor) -> Tensor:
    """Sum over rows of the Jensen-Shannon divergence of two softmaxes, in nats. -inf = left out, the same in both."""
    left_out_aX = one_aX == -torch.inf
    logs = [each.log_softmax(dim=1).masked_fill(left_out_aX, 0) for each in (one_aX, other_aX)]
    weights = [log_aX.exp().masked_fill(left_out_aX, 0) for log_aX in logs]
    mean_aX = torch.logaddexp(*logs) - torch.log(torch.tensor(2.0, dtype=one_aX.dtype, device=one_aX.device))
    return sum((w * (log - mean_aX)).sum() for w, log in zip(weights, logs, strict=True)) / 2  # type: ignore[return-value]
