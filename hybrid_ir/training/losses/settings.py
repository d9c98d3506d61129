"""The config's `loss` section, as plain values. In: its keys. Out: what a step passes on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LossSettings:
    """The config's `loss` section, as plain values; `contrastive_loss` says what they do."""

    temperature: float
    symmetric: bool
    negatives: str
    cached: bool
    dimensions: tuple[int, ...] = ()
    teacher: str | None = None
    teacher_weight: float = 0.5
    teacher_temperature: float | None = None
    alignment: float = 0.0
