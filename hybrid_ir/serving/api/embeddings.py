"""Embeddings, as OpenAI's API has them: what is asked, and what is answered."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StrictInt, StrictStr

from hybrid_ir.serving.api.message import Message

TokenIds = Annotated[list[StrictInt], Field(min_length=1, fail_fast=True)]


class EmbeddingsRequest(Message):
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
    language: StrictStr | None = Field(
        default=None,
        description="The language of the texts, for an encoder that has another prompt in some languages; null = not "
        "said: the usual prompt is taken.",
        examples=["de"],
    )
    task: StrictStr | None = Field(
        default=None,
        description="For queries, the encoder's prompt of this name in place of the usual one. Refused where there is "
        "none.",
        examples=["qa"],
    )
    dimensions: StrictInt | None = Field(
        default=None,
        description="The encoder's own, or fewer that it was trained for (`loss.dimensions`): so many first values, at "
        "unit length. Null = its own. Any other is refused.",
        examples=[None],
    )


class Embedding(Message):
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


class Usage(Message):
    """What was encoded."""

    prompt_tokens: int = Field(description="Tokens of all texts, prefixes included.", examples=[9])
    total_tokens: int = Field(description="The same number.", examples=[9])


class EmbeddingsResponse(Message):
    """Vectors of the texts, as OpenAI's, with the space id."""

    object: Literal["list"] = Field(default="list", description="The kind of this object, as OpenAI's.")
    data: list[Embedding] = Field(description="One for each text, in their order.")
    model: str = Field(description="As asked for, or the space id.", examples=["3f0c9a1be27d4e55"])
    usage: Usage
    space_id: str = Field(description="The encoder that made the vectors.", examples=["3f0c9a1be27d4e55"])


class ModelInfo(Message):
    """The encoder that is served."""

    id: str = Field(description="The space id, or `serve.model_name`.", examples=["3f0c9a1be27d4e55"])
    object: Literal["model"] = Field(default="model", description="The kind of this object, as OpenAI's.")
    created: int = Field(description="When the gateway started, in seconds since 1970.", examples=[1766275200])
    owned_by: str = Field(description="Always `hybrid-ir`.", examples=["hybrid-ir"])
    dimension: int = Field(description="Numbers of a vector, if no fewer are asked for.", examples=[128])
    max_tokens: int = Field(description="A longer text is cut here.", examples=[64])


class ModelList(Message):
    """The names that the one model has."""

    object: Literal["list"] = Field(default="list", description="The kind of this object, as OpenAI's.")
    data: list[ModelInfo] = Field(description="The encoder that is served, under each of its names.")
