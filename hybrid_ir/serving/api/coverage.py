"""How complete an answer is, and where its time went."""

from __future__ import annotations

from pydantic import Field

from hybrid_ir.serving.api.message import Message


class Coverage(Message):
    """How much of the index answered."""

    complete: bool = Field(description="Every shard that was needed answered.", examples=[True])
    shards: int = Field(
        description="Shards that answered, or hold none of the languages and were not asked.", examples=[2]
    )
    shards_total: int = Field(description="Shards of the index.", examples=[2])
    shards_missing: list[str] = Field(description="Names of those that did not.", examples=[[]])
    languages_missing: list[str] = Field(
        description="Languages some of whose passages were not searched, of those asked for.", examples=[[]]
    )


class Timings(Message):
    """Where the time went, in milliseconds."""

    queue: float = Field(description="Waiting for a batch.", examples=[0.4])
    encode: float = Field(description="Encoding the batch.", examples=[3.1])
    search: float = Field(description="All shards, and reading the passages.", examples=[1.2])
    rerank: float | None = Field(default=None, description="With `rerank`: the reranker.", examples=[40.2])
    total: float = Field(description="From the request, when it was read, to its answer.", examples=[5.0])
