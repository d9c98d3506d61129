"""What is served, and whether it answers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from hybrid_ir.serving.api.message import Message


class ShardStatus(Message):
    """A shard, and whether it answers."""

    name: str = Field(description="Its folder in the index.", examples=["000"])
    passages: int = Field(description="Passages that it holds.", examples=[6507])
    languages: dict[str, int] = Field(description="Its passages of each language.", examples=[{"de": 1185}])
    up: bool = Field(description="Whether it answers.", examples=[True])


class Stats(Message):
    """What is served."""

    index: str = Field(description="Folder of the index.", examples=["/data/index"])
    index_version: str = Field(description="Changes with whatever an answer depends on.", examples=["91b2d0c4aa3f7e10"])
    wanted_index: str = Field(description="Folder of the index to be served.", examples=["/data/index"])
    wanted_version: str = Field(
        description="The version to be served. It differs from `index_version` while this gateway cannot load it.",
        examples=["91b2d0c4aa3f7e10"],
    )
    previous_index: str | None = Field(description="What a rollback would bring back.", examples=[None])
    space_id: str = Field(description="The encoder that made the index.", examples=["3f0c9a1be27d4e55"])
    placement: Literal["local", "distributed"] = Field(
        description="Shards and encoder in the gateway's process, or each in its own.", examples=["local"]
    )
    codec: str = Field(description="How vectors are stored, in FAISS's words.", examples=["Flat"])
    passages: int = Field(description="Passages of the index.", examples=[13014])
    languages: dict[str, int] = Field(description="Passages of each language.", examples=[{"de": 1185}])
    metadata_keys: list[str] = Field(description="Keys that `metadata` can filter by.", examples=[["year"]])
    shards: list[ShardStatus] = Field(description="Every shard, and whether it answers.")
    recall: dict[str, Any] = Field(description="What the build's gate measured.", examples=[{"k": 10, "target": 0.98}])
    versions: dict[str, str] = Field(description="Of what built the index.", examples=[{"hybrid-ir": "0.1.0"}])


class Ready(Message):
    """Whether all of the service answers."""

    ready: bool = Field(
        description="Every shard, the encoder and the reranker answer, and it does not stop.", examples=[True]
    )
    shards_missing: list[str] = Field(description="Names of the shards that do not answer.", examples=[[]])
    encoder: bool = Field(description="Whether the encoder answers.", examples=[True])
    reranker: bool | None = Field(
        default=None, description="Whether the reranker answers, where one is served.", examples=[True]
    )
    stopping: bool | None = Field(
        default=None,
        description="True where the service is stopping: what is in flight is answered, and nothing more is let in.",
        examples=[True],
    )
    index_version: str = Field(description="Changes with whatever an answer depends on.", examples=["91b2d0c4aa3f7e10"])
    wanted_version: str = Field(
        description="The version to be served. It differs from `index_version` while this gateway cannot load it.",
        examples=["91b2d0c4aa3f7e10"],
    )


class Health(Message):
    """That the gateway runs."""

    status: Literal["ok"] = Field(default="ok", description="Always `ok`.")
