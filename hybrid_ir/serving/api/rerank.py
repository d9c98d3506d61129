"""Texts to be put in order by a cross-encoder: as Cohere and Jina ask for it, and as text-embeddings-inference does.

Fields that are not known are not looked at, as clients have more than we do. The forms are those of
https://docs.cohere.com/reference/rerank, of https://jina.ai/reranker and of `RerankRequest` in
https://huggingface.github.io/text-embeddings-inference.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, StrictBool, StrictInt, StrictStr

from hybrid_ir.serving.api.embeddings import Usage
from hybrid_ir.serving.api.message import Message


class RerankDocument(Message):
    """A document as Jina's clients send it, and as an answer gives it back."""

    model_config = ConfigDict(extra="ignore")

    text: StrictStr = Field(description="The whole text.", examples=["Der Rhein mündet in die Nordsee."])


class RerankRequest(Message):
    """A query and the documents to put in order, as Cohere's and Jina's clients send them."""

    model_config = ConfigDict(extra="ignore")

    query: StrictStr = Field(description="What is asked.", examples=["Where does the Rhine end?"])
    documents: Annotated[list[StrictStr | RerankDocument], Field(min_length=1, fail_fast=True)] = Field(
        description="Texts, or objects with a `text`; `serve.max_inputs` at most.",
        examples=[["Der Rhein mündet in die Nordsee.", "Madrid es la capital de España."]],
    )
    model: StrictStr | None = Field(
        default=None,
        description="The reranker that is served: the last part of its folder, or its name on the hub; null is the "
        "same. Any other is refused.",
        examples=[None],
    )
    top_n: Annotated[StrictInt, Field(ge=1)] | None = Field(
        default=None, description="Results, at most; null = one for each document.", examples=[1]
    )
    return_documents: StrictBool | None = Field(
        default=None, description="Whether results have the documents' texts; null = false.", examples=[True]
    )


class RerankResult(Message):
    """A document, by its place in the request."""

    index: int = Field(description="Place of the document in the request, from 0.", examples=[0])
    relevance_score: float = Field(
        description="From 0 to 1, higher is better: the sigmoid of the model's output.", examples=[0.97]
    )
    cut: bool = Field(
        description="Whether query and document together were longer than the model reads.", examples=[False]
    )
    document: RerankDocument | None = Field(default=None, description="With `return_documents`: its text.")


class RerankResponse(Message):
    """The documents in order, as Cohere and Jina give it."""

    id: str = Field(description="Of this answer.", examples=["5c1b7f0a94b34c5f8e6d7a2b1c0d9e8f"])
    model: str = Field(description="The reranker.", examples=["BAAI/bge-reranker-v2-m3"])
    results: list[RerankResult] = Field(description="Best first; of equal scores the document that came first.")
    usage: Usage


class RankRequest(Message):
    """A query and the texts to put in order, as clients of text-embeddings-inference send them."""

    model_config = ConfigDict(extra="ignore")

    query: StrictStr = Field(description="What is asked.", examples=["Where does the Rhine end?"])
    texts: Annotated[list[StrictStr], Field(min_length=1, fail_fast=True)] = Field(
        description="Texts; `serve.max_inputs` at most.",
        examples=[["Der Rhein mündet in die Nordsee.", "Madrid es la capital de España."]],
    )
    raw_scores: StrictBool = Field(
        default=False, description="Give the model's output, in place of its sigmoid.", examples=[False]
    )
    return_text: StrictBool = Field(default=False, description="Give the texts back.", examples=[True])


class Rank(Message):
    """A text, by its place in the request."""

    index: int = Field(description="Place of the text in the request, from 0.", examples=[0])
    score: float = Field(description="Higher is better; from 0 to 1 without `raw_scores`.", examples=[0.97])
    text: str | None = Field(
        default=None, description="With `return_text`: the text.", examples=["Der Rhein mündet in die Nordsee."]
    )
