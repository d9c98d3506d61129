"""What every status from 400 up carries. In: what was wrong. Out: a body in the shape of RFC 9457 and of OpenAI's."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Literal

from pydantic import Field

from hybrid_ir.serving.api.message import Message
from hybrid_ir.serving.api.search import SearchResponse

PROBLEM = "application/problem+json"


class ErrorDetail(Message):
    """What was wrong."""

    message: str = Field(description="For people.", examples=["k must be at most 100, got 500"])
    type: str = Field(description="For programs; one word of a fixed list.", examples=["invalid_request"])
    param: str | None = Field(default=None, description="The field at fault, if it is one.", examples=["k"])


class ErrorResponse(Message):
    """What every status from 400 up carries: a problem of RFC 9457, and beside it what clients of OpenAI's read."""

    type: Literal["about:blank"] = Field(description="RFC 9457: the status says it all, and `error` what it does not.")
    title: str = Field(description="The status in words.", examples=["Unprocessable Entity"])
    status: int = Field(description="The answer's status.", examples=[422])
    detail: str = Field(description="For people; `error.message` again.", examples=["k must be at most 100, got 500"])
    error: ErrorDetail


class DeadlineResponse(SearchResponse, ErrorResponse):
    """504: the deadline passed; `results` has what was found until then."""


def problem(status: int, type: str, message: str, param: str | None) -> dict[str, Any]:
    """An ErrorResponse as plain data."""
    return {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": message,
        "error": {"message": message, "type": type, "param": param},
    }
