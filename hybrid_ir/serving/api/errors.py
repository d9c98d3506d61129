"""What every status from 400 up carries."""

from __future__ import annotations

from pydantic import Field

from hybrid_ir.serving.api.message import Message
from hybrid_ir.serving.api.search import SearchResponse


class ErrorDetail(Message):
    """What was wrong."""

    message: str = Field(description="For people.", examples=["k must be at most 100, got 500"])
    type: str = Field(description="For programs; one word of a fixed list.", examples=["invalid_request"])
    param: str | None = Field(default=None, description="The field at fault, if it is one.", examples=["k"])


class ErrorResponse(Message):
    """What every status from 400 up carries."""

    error: ErrorDetail


class DeadlineResponse(SearchResponse):
    """504: the deadline passed; `results` has what was found until then."""

    error: ErrorDetail
