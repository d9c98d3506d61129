"""Passages that are written into the index that is served, and deleted from it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from hybrid_ir.serving.api.message import Message

MOST_PASSAGES = 4096
"""Of one request: so many are encoded in one piece, and make one version."""


class PutRequest(Message):
    """Passages to write, in one version of the index."""

    passages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MOST_PASSAGES, fail_fast=True)] = Field(
        description="Each has `doc_id`, `text` and `language`, and may have `metadata`, as the records of an index "
        "build. One whose doc_id the index has takes the place of that one; the others are added. 4,096 at most.",
        examples=[[{"doc_id": "rhine-3", "text": "Der Rhein mündet in die Nordsee.", "language": "de"}]],
    )


class Written(Message):
    """The version that was made, which is served by now."""

    index_version: str = Field(description="Of the index with the change.", examples=["91b2d0c4aa3f7e10"])
    parent_version: str = Field(description="The one that it was made from.", examples=["1e07c2f3a9d85b64"])
    written: int = Field(description="Passages that were written.", examples=[1])
    deleted: int = Field(description="Passages that are gone, those included in whose place others are.", examples=[1])
    passages: int = Field(description="Passages of the index.", examples=[13014])
