"""Lexical search beside the encoder's: what a request may say of it, and where each ranking has a hit."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictFloat, StrictInt

from hybrid_ir.serving.api.message import Message


class Lexical(Message):
    """How passages that share words with the query are found, by BM25."""

    fusion: Literal["rrf", "weighted", "none"] = Field(
        default="weighted",
        description="weighted: `weight` times the BM25 score over the best one, and the rest times where the cosine "
        "lies between the last of its ranking and the best. rrf: the sum of 1 / (60 + position) over both rankings. "
        "none: by BM25 alone, and nothing is encoded.",
        examples=["weighted"],
    )
    weight: Annotated[StrictFloat, Field(ge=0, le=1)] | None = Field(
        default=None, description="Of the lexical ranking, with `weighted`; null = 0.3.", examples=[0.3]
    )
    depth: Annotated[StrictInt, Field(ge=1)] | None = Field(
        default=None,
        description="So many of the best of each ranking are fused, offset + k at least; null = `serve.max_k`, which "
        "is the most.",
        examples=[100],
    )


class InRanking(Message):
    """Where one of two rankings has a hit."""

    position: int = Field(description="From 1, best first.", examples=[3])
    score: float = Field(description="The cosine, or the BM25 score.", examples=[7.25])
