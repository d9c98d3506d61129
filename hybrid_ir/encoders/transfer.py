"""Arrays of the host as tensors of the device that computes. In: numpy. Out: a tensor there."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """The array's values on `device`. A GPU copies them from pinned memory while the host goes on: whoever waited for
    each small array would leave the GPU without work."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
