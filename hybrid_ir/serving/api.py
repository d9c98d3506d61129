"""The HTTP API's requests and responses. Every field has an example, which `/docs` shows.

Numbers that a setting limits (k, queries, characters) are checked by the gateway, which knows the settings.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


Text = Annotated[StrictStr, Field(min_length=1, pattern=r"\S")]
MetadataValue = StrictBool | StrictInt | StrictFloat | StrictStr


class SearchRequest(_Message):
    """One query or a list of them, and what may be found."""

    query: Text | Annotated[list[Text], Field(min_length=1)] = Field(
        description="A text, or a list of texts that are searched with the same settings.",
        examples=["Where does the Rhine end?", ["Where does the Rhine end?", "¿Dónde nace el Ebro?"]],
    )
    k: StrictInt = Field(default=10, ge=1, description="Hits for each query; `serve.max_k` at most.", examples=[10])
    languages: Annotated[list[StrictStr], Field(min_length=1)] | None = Field(
        default=None, description="Find passages of these languages only; null = all.", examples=[["de", "es"]]
    )
    metadata: Annotated[dict[StrictStr, MetadataValue], Field(min_length=1)] | None = Field(
        default=None, description="Find passages whose metadata have exactly these values.", examples=[{"year": 2024}]
    )
    policy: Literal["strict", "best_effort"] = Field(
        default="strict",
        description="When a shard does not answer: strict = an error, best_effort = what the others found, and "
        "`coverage`.",
        examples=["best_effort"],
    )
    deadline_ms: Annotated[StrictInt, Field(ge=1)] | None = Field(
        default=None,
        description="Answer within this time; beyond it 504, with what was found. `serve.deadline_ms` at most.",
        examples=[500],
    )


class Hit(_Message):
    position: int = Field(description="From 1, best first.", examples=[1])
    doc_id: str = Field(examples=["rhine-3"])
    text: str = Field(examples=["Der Rhein mündet in die Nordsee."])
    language: str = Field(description="BCP 47 primary subtag.", examples=["de"])
    score: float = Field(description="Cosine of query and passage.", examples=[0.83])
    metadata: dict[str, MetadataValue] = Field(examples=[{"year": 2024}])


class QueryResult(_Message):
    hits: list[Hit] = Field(description="At most k, best first; of equal scores the passage indexed first.")


class Coverage(_Message):
    """How much of the index answered."""

    complete: bool = Field(examples=[True])
    shards: int = Field(description="Shards that answered.", examples=[2])
    shards_total: int = Field(examples=[2])
    shards_missing: list[str] = Field(description="Names of those that did not.", examples=[[]])
    languages_missing: list[str] = Field(
        description="Languages some of whose passages were not searched, of those asked for.", examples=[[]]
    )


class Timings(_Message):
    """Milliseconds."""

    queue: float = Field(description="Waiting for a batch.", examples=[0.4])
    encode: float = Field(examples=[3.1])
    search: float = Field(description="All shards, and reading the passages.", examples=[1.2])
    total: float = Field(examples=[5.0])


class SearchResponse(_Message):
    results: list[QueryResult] = Field(description="One for each query, in their order.")
    coverage: Coverage
    space_id: str = Field(description="The encoder that made every vector involved.", examples=["3f0c9a1be27d4e55"])
    index_version: str = Field(examples=["91b2d0c4aa3f7e10"])
    timings_ms: Timings


class EmbeddingsRequest(_Message):
    """As OpenAI's, with `input_type`."""

    input: StrictStr | Annotated[list[StrictStr], Field(min_length=1)] = Field(
        description="A text or a list of texts.", examples=[["Der Rhein mündet in die Nordsee."]]
    )
    model: StrictStr | None = Field(
        default=None,
        description="The id of `/v1/models`; null or any other is refused unless it is that.",
        examples=[None],
    )
    encoding_format: Literal["float", "base64"] = Field(
        default="float", description="base64: little-endian float32.", examples=["float"]
    )
    input_type: Literal["query", "passage"] = Field(
        default="passage", description="Which of the encoder's prefixes to put before the text.", examples=["query"]
    )
    dimensions: StrictInt | None = Field(
        default=None, description="Must be the encoder's own, if given.", examples=[None]
    )
    user: StrictStr | None = Field(default=None, description="Accepted and not used.", examples=[None])


class Embedding(_Message):
    object: Literal["embedding"] = "embedding"
    index: int = Field(examples=[0])
    embedding: list[float] | str = Field(description="Unit length.", examples=[[0.12, -0.05]])


class Usage(_Message):
    prompt_tokens: int = Field(examples=[9])
    total_tokens: int = Field(examples=[9])


class EmbeddingsResponse(_Message):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str = Field(examples=["3f0c9a1be27d4e55"])
    usage: Usage
    space_id: str = Field(examples=["3f0c9a1be27d4e55"])


class ModelInfo(_Message):
    id: str = Field(description="The space id.", examples=["3f0c9a1be27d4e55"])
    object: Literal["model"] = "model"
    created: int = Field(description="Seconds since 1970.", examples=[1766275200])
    owned_by: str = Field(examples=["hybrid-ir"])
    dimension: int = Field(examples=[128])
    max_tokens: int = Field(examples=[64])


class ModelList(_Message):
    object: Literal["list"] = "list"
    data: list[ModelInfo]


class ShardStatus(_Message):
    name: str = Field(examples=["000"])
    passages: int = Field(examples=[6507])
    languages: dict[str, int] = Field(examples=[{"de": 1185}])
    up: bool = Field(examples=[True])


class Stats(_Message):
    index: str = Field(examples=["/data/index"])
    index_version: str = Field(examples=["91b2d0c4aa3f7e10"])
    previous_index: str | None = Field(description="What a rollback would bring back.", examples=[None])
    space_id: str = Field(examples=["3f0c9a1be27d4e55"])
    placement: Literal["local", "distributed"] = Field(examples=["local"])
    codec: str = Field(examples=["Flat"])
    passages: int = Field(examples=[13014])
    languages: dict[str, int] = Field(description="Passages of each language.", examples=[{"de": 1185}])
    metadata_keys: list[str] = Field(examples=[["year"]])
    shards: list[ShardStatus]
    recall: dict[str, Any] = Field(description="What the build's gate measured.", examples=[{"k": 10, "target": 0.98}])
    versions: dict[str, str] = Field(examples=[{"hybrid-ir": "0.1.0"}])


class Ready(_Message):
    ready: bool = Field(description="Every shard and the encoder answer.", examples=[True])
    shards_missing: list[str] = Field(examples=[[]])
    encoder: bool = Field(examples=[True])
    index_version: str = Field(examples=["91b2d0c4aa3f7e10"])


class Health(_Message):
    status: Literal["ok"] = "ok"


class ErrorDetail(_Message):
    message: str = Field(examples=["k must be at most 100, got 500"])
    type: str = Field(examples=["invalid_request"])
    param: str | None = Field(default=None, examples=["k"])


class ErrorResponse(_Message):
    """What every status from 400 up carries."""

    error: ErrorDetail


class DeadlineResponse(SearchResponse):
    """504: the deadline passed; `results` has what was found until then."""

    error: ErrorDetail
