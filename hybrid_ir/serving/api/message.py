"""What all bodies have in common. In: nothing. Out: the base of their models."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
