"""Texts to be encoded, as clients of Cohere and of text-embeddings-inference ask for it.

Fields that are not known are not looked at, as clients have more than we do. The forms are those of
https://docs.cohere.com/reference/embed, as the package cohere 7 sends and reads them, and of `EmbedRequest` in
https://huggingface.github.io/text-embeddings-inference.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StrictBool, StrictInt, StrictStr

from hybrid_ir.serving.api.errors import ErrorResponse
from hybrid_ir.serving.api.message import Message

Vectors = list[list[float]]
TEXTS = ["Der Rhein mündet in die Nordsee."]


class CohereEmbedRequest(Message):
    """Texts as Cohere's clients send them."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    texts: Annotated[list[StrictStr], Field(min_length=1, fail_fast=True)] | None = Field(
        default=None, description="Texts; `serve.max_inputs` at most. Required.", examples=[TEXTS]
    )
    input_type: Literal["search_query", "search_document"] = Field(
        description="Which of the encoder's prefixes to put before the texts: that of queries or of passages. It has "
        "none for Cohere's other types, which are refused.",
        examples=["search_document"],
    )
    model: StrictStr | None = Field(
        default=None, description="An id that `/v1/models` gives; null is the same.", examples=[None]
    )
    embedding_types: Annotated[list[Literal["float", "base64"]], Field(min_length=1, max_length=6)] | None = Field(
        default=None,
        description="float, which null is too; base64: little-endian float32. Types of fewer bits are refused.",
        examples=[["float"]],
    )
    truncate: Literal["NONE", "END"] | None = Field(
        default=None,
        description="END, which null is too: a text that is too long is cut at its end, and `meta` says so. NONE: it "
        "is refused. START is refused, since the encoder reads beginnings.",
        examples=["END"],
    )
    output_dimension: StrictInt | None = Field(
        default=None, description="As `dimensions` of `/v1/embeddings`.", examples=[None]
    )
    max_tokens: StrictInt | None = Field(
        default=None,
        description="Refused where it is less than the encoder reads, which is where a text is cut.",
        examples=[None],
    )
    images: Annotated[list[StrictStr], Field(fail_fast=True)] | None = Field(
        default=None, description="Refused: texts alone are encoded here.", examples=[None]
    )
    inputs: Annotated[list[dict[str, Any]], Field(fail_fast=True)] | None = Field(
        default=None, description="Refused: send `texts`.", examples=[None]
    )


class CohereVectors(Message):
    """The vectors in each type that was asked for."""

    float: Vectors | None = Field(
        default=None, description="One for each text, of unit length.", examples=[[[0.12, -0.05]]]
    )
    base64: list[str] | None = Field(
        default=None, description="The same, as little-endian float32.", examples=[["j8L1PcdLTb0="]]
    )


class CohereEmbedResponse(Message):
    """Vectors of the texts, as Cohere's."""

    response_type: Literal["embeddings_by_type", "embeddings_floats"] = Field(
        description="embeddings_floats: of `/v1/embed` where no type was asked for.", examples=["embeddings_by_type"]
    )
    id: str = Field(description="Of this answer.", examples=["5c1b7f0a94b34c5f8e6d7a2b1c0d9e8f"])
    embeddings: CohereVectors | Vectors = Field(
        description="By type; with embeddings_floats the vectors themselves.", examples=[{"float": [[0.12, -0.05]]}]
    )
    texts: list[str] = Field(description="The texts.", examples=[TEXTS])
    meta: dict[str, Any] = Field(
        description="The version of the API, tokens that were read, and warnings: which texts were cut.",
        examples=[{"api_version": {"version": "2"}, "billed_units": {"input_tokens": 9}}],
    )


class CohereError(ErrorResponse):
    """What every status from 400 up carries there: a problem of RFC 9457, and what Cohere's clients read."""

    message: str = Field(description="For people; `detail` again.", examples=["texts is empty"])


class TeiEmbedRequest(Message):
    """Texts as clients of text-embeddings-inference send them."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    inputs: StrictStr | Annotated[list[StrictStr], Field(min_length=1, fail_fast=True)] = Field(
        description="A text or a list of texts; `serve.max_inputs` at most.", examples=[TEXTS]
    )
    prompt_name: StrictStr | None = Field(
        default=None,
        description="Which of the encoder's prompts to put before the texts, by its name in the checkpoint: `query`, "
        "`document`, one of a language such as `query-de`, or one of a task. `passage` is `document` too, and so is "
        "null. A name that the index does not have is refused.",
        examples=["query"],
    )
    truncate: StrictBool | None = Field(
        default=None,
        description="Cut a text that is too long at its end, which null does too; false = refuse it.",
        examples=[True],
    )
    truncation_direction: StrictStr | None = Field(
        default=None, description="`right`, which null is too; the encoder reads beginnings.", examples=["right"]
    )
    normalize: StrictBool | None = Field(
        default=None, description="true, which null is too: there are vectors of unit length alone.", examples=[True]
    )
    dimensions: StrictInt | None = Field(
        default=None, description="As `dimensions` of `/v1/embeddings`.", examples=[None]
    )


class TeiError(Message):
    """What every status from 400 up carries there: a problem of RFC 9457, and what that server's clients read."""

    type: Literal["about:blank"] = Field(description="RFC 9457: the status says it all.")
    title: str = Field(description="The status in words.", examples=["Unprocessable Entity"])
    status: int = Field(description="The answer's status.", examples=[422])
    detail: str = Field(description="For people; `error` again.", examples=["inputs is empty"])
    error: str = Field(description="For people.", examples=["inputs is empty"])
    error_type: Literal["Validation", "Overloaded", "Unhealthy", "Backend"] = Field(
        description="For programs: the request's fault, too much to do, what does not answer, or a defect.",
        examples=["Validation"],
    )
