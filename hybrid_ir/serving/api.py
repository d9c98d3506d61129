"""The HTTP API's requests and responses. Every field has a meaning and an example, which `/docs` shows.

In: a body's JSON. Out: a checked request, or the shape of an answer. What a setting limits (k, queries, characters) is
checked in `checks`, which knows the settings.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


MOST_LANGUAGES = 1000
MOST_KEYS = 64
MOST_FIELDS = MOST_KEYS + 3
"""Metadata keys and fields of a request. Pydantic checks none of these before it has read every item: `checks.parse`
does."""

Text = Annotated[StrictStr, Field(min_length=1, pattern=r"\S")]
Languages = Annotated[list[StrictStr], Field(min_length=1, max_length=MOST_LANGUAGES, fail_fast=True)]
MetadataValue = StrictBool | StrictInt | StrictFloat | StrictStr


class SearchRequest(_Message):
    """One query, a list of them or a passage, and what may be found."""

    query: Text | Annotated[list[Text], Field(min_length=1, fail_fast=True)] | None = Field(
        default=None,
        description="A text, or a list of texts that are searched with the same settings. Required, or `like` in its "
        "place.",
        examples=["Where does the Rhine end?", ["Where does the Rhine end?", "¿Dónde nace el Ebro?"]],
    )
    like: Annotated[StrictStr, Field(min_length=1)] | None = Field(
        default=None,
        description="In place of `query`: the doc_id of a passage, for others like it. Its stored vector is the query, "
        "and it is left out of the hits.",
        examples=["rhine-3"],
    )
    k: StrictInt = Field(default=10, ge=1, description="Hits for each query; `serve.max_k` at most.", examples=[10])
    offset: Annotated[StrictInt, Field(ge=0)] | None = Field(
        default=None,
        description="Hits to leave out at the beginning, for the next page; offset + k is `serve.max_k` at most. Pages "
        "begin with 0: they are cut from one order, whatever their k. null = one answer, not a page.",
        examples=[10],
    )
    languages: Languages | None = Field(
        default=None,
        description="Find passages of these languages only; null = all. Tags are read as the build "
        "reads them: `en`, `en-US` and `eng` are one.",
        examples=[["de", "es"]],
    )
    metadata: Annotated[dict[StrictStr, MetadataValue], Field(min_length=1, max_length=MOST_KEYS)] | None = Field(
        default=None, description="Find passages whose metadata have exactly these values.", examples=[{"year": 2024}]
    )
    min_score: Annotated[StrictFloat, Field(ge=-1, le=1)] | None = Field(
        default=None,
        description="Leave out hits whose score is below it; null = leave out none. What is a good score differs from "
        "encoder to encoder.",
        examples=[0.8],
    )
    fields: Annotated[list[StrictStr], Field(max_length=MOST_FIELDS, fail_fast=True)] | None = Field(
        default=None,
        description="What a hit has beside position, doc_id and score: `text`, `language`, `metadata`, or one key of "
        "it, as `metadata.year`. null = all of it; [] = nothing more.",
        examples=[["language", "metadata.year"]],
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
    """A passage that was found."""

    position: int = Field(description="From 1, best first; on a page from offset + 1.", examples=[1])
    doc_id: str = Field(description="The passage's id in the input.", examples=["rhine-3"])
    text: str | None = Field(
        default=None,
        description="The whole passage. It is left out where `fields` does not name it, as the next two are.",
        examples=["Der Rhein mündet in die Nordsee."],
    )
    language: str | None = Field(default=None, description="BCP 47 primary subtag.", examples=["de"])
    metadata: dict[str, MetadataValue] | None = Field(
        default=None, description="As in the input, or those keys that `fields` names.", examples=[{"year": 2024}]
    )
    score: float = Field(description="Cosine of query and passage.", examples=[0.83])


class QueryResult(_Message):
    """What was found for one query."""

    hits: list[Hit] = Field(description="At most k, best first; of equal scores the passage indexed first.")
    cut: bool | None = Field(
        description="Whether the query was longer than the encoder reads, so that only its beginning was searched for; "
        "null where it was not encoded before the deadline.",
        examples=[False],
    )


class Coverage(_Message):
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


class Timings(_Message):
    """Where the time went, in milliseconds."""

    queue: float = Field(description="Waiting for a batch.", examples=[0.4])
    encode: float = Field(description="Encoding the batch.", examples=[3.1])
    search: float = Field(description="All shards, and reading the passages.", examples=[1.2])
    total: float = Field(description="From the request, when it was read, to its answer.", examples=[5.0])


class SearchResponse(_Message):
    """Hits of every query, and how much of the index answered."""

    results: list[QueryResult] = Field(description="One for each query, in their order.")
    coverage: Coverage
    space_id: str = Field(description="The encoder that made every vector involved.", examples=["3f0c9a1be27d4e55"])
    index_version: str = Field(description="Changes with whatever an answer depends on.", examples=["91b2d0c4aa3f7e10"])
    timings_ms: Timings


class Passage(_Message):
    """A passage of the index."""

    doc_id: str = Field(description="The passage's id in the input.", examples=["rhine-3"])
    text: str = Field(description="The whole passage.", examples=["Der Rhein mündet in die Nordsee."])
    language: str = Field(description="BCP 47 primary subtag.", examples=["de"])
    metadata: dict[str, MetadataValue] = Field(description="As in the input.", examples=[{"year": 2024}])
    index_version: str = Field(description="The version that it was read from.", examples=["91b2d0c4aa3f7e10"])


TokenIds = Annotated[list[StrictInt], Field(min_length=1, fail_fast=True)]


class EmbeddingsRequest(_Message):
    """As OpenAI's, with `input_type`. Fields that are not known are not looked at, as clients have more than we do."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    input: (
        StrictStr
        | Annotated[list[StrictStr], Field(min_length=1, fail_fast=True)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, fail_fast=True)]
    ) = Field(
        description="A text or a list of texts; or their token ids, where `serve.token_ids` says of which encoding.",
        examples=[["Der Rhein mündet in die Nordsee."]],
    )
    model: StrictStr | None = Field(
        default=None,
        description="An id that `/v1/models` gives; null is the same. `ID:query` and `ID:passage` also say which "
        "prefix, for clients that cannot send `input_type`. Any other is refused.",
        examples=[None],
    )
    encoding_format: Literal["float", "base64"] | None = Field(
        default=None, description="float, which null is too, or base64: little-endian float32.", examples=["float"]
    )
    input_type: Literal["query", "passage"] | None = Field(
        default=None,
        description="Which of the encoder's prefixes to put before the text; null = passage, or as `model` says.",
        examples=["query"],
    )
    dimensions: StrictInt | None = Field(
        default=None, description="Must be the encoder's own, if given.", examples=[None]
    )


class Embedding(_Message):
    """The vector of one text."""

    object: Literal["embedding"] = Field(default="embedding", description="The kind of this object, as OpenAI's.")
    index: int = Field(description="Place of the text in the input, from 0.", examples=[0])
    embedding: list[float] | str = Field(
        description="Of unit length; base64 if that was asked for.", examples=[[0.12, -0.05]]
    )
    cut: bool = Field(
        description="Whether the text was longer than the encoder reads, so that the vector is of its beginning alone.",
        examples=[False],
    )


class Usage(_Message):
    """What was encoded."""

    prompt_tokens: int = Field(description="Tokens of all texts, prefixes included.", examples=[9])
    total_tokens: int = Field(description="The same number.", examples=[9])


class EmbeddingsResponse(_Message):
    """Vectors of the texts, as OpenAI's, with the space id."""

    object: Literal["list"] = Field(default="list", description="The kind of this object, as OpenAI's.")
    data: list[Embedding] = Field(description="One for each text, in their order.")
    model: str = Field(description="As asked for, or the space id.", examples=["3f0c9a1be27d4e55"])
    usage: Usage
    space_id: str = Field(description="The encoder that made the vectors.", examples=["3f0c9a1be27d4e55"])


class ModelInfo(_Message):
    """The encoder that is served."""

    id: str = Field(description="The space id, or `serve.model_name`.", examples=["3f0c9a1be27d4e55"])
    object: Literal["model"] = Field(default="model", description="The kind of this object, as OpenAI's.")
    created: int = Field(description="When the gateway started, in seconds since 1970.", examples=[1766275200])
    owned_by: str = Field(description="Always `hybrid-ir`.", examples=["hybrid-ir"])
    dimension: int = Field(description="Numbers of a vector.", examples=[128])
    max_tokens: int = Field(description="A longer text is cut here.", examples=[64])


class ModelList(_Message):
    """The names that the one model has."""

    object: Literal["list"] = Field(default="list", description="The kind of this object, as OpenAI's.")
    data: list[ModelInfo] = Field(description="The encoder that is served, under each of its names.")


class ShardStatus(_Message):
    """A shard, and whether it answers."""

    name: str = Field(description="Its folder in the index.", examples=["000"])
    passages: int = Field(description="Passages that it holds.", examples=[6507])
    languages: dict[str, int] = Field(description="Its passages of each language.", examples=[{"de": 1185}])
    up: bool = Field(description="Whether it answers.", examples=[True])


class Stats(_Message):
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


class Ready(_Message):
    """Whether all of the service answers."""

    ready: bool = Field(description="Every shard and the encoder answer.", examples=[True])
    shards_missing: list[str] = Field(description="Names of the shards that do not answer.", examples=[[]])
    encoder: bool = Field(description="Whether the encoder answers.", examples=[True])
    index_version: str = Field(description="Changes with whatever an answer depends on.", examples=["91b2d0c4aa3f7e10"])
    wanted_version: str = Field(
        description="The version to be served. It differs from `index_version` while this gateway cannot load it.",
        examples=["91b2d0c4aa3f7e10"],
    )


class Health(_Message):
    """That the gateway runs."""

    status: Literal["ok"] = Field(default="ok", description="Always `ok`.")


class ErrorDetail(_Message):
    """What was wrong."""

    message: str = Field(description="For people.", examples=["k must be at most 100, got 500"])
    type: str = Field(description="For programs; one word of a fixed list.", examples=["invalid_request"])
    param: str | None = Field(default=None, description="The field at fault, if it is one.", examples=["k"])


class ErrorResponse(_Message):
    """What every status from 400 up carries."""

    error: ErrorDetail


class DeadlineResponse(SearchResponse):
    """504: the deadline passed; `results` has what was found until then."""

    error: ErrorDetail
