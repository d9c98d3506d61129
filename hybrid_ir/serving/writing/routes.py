"""The routes that write, what they may be asked, and by whom.

In: requests. Out: what the writer answers once its version is served, or a RequestError.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.responses import Response

from hybrid_ir.config import Serve
from hybrid_ir.index import parse_passage
from hybrid_ir.serving import api
from hybrid_ir.serving.checks import RequestError, carries
from hybrid_ir.serving.http_document import documented
from hybrid_ir.types import Rejected

PASSAGES = "/passages/"
id_of_path = "doc_id", "The passage's id in the input, percent-encoded; a slash may stand as it is.", "rhine-3"


class Writer(Protocol):
    """Makes a version of the index that is served, and has it served."""

    async def put(self, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A `Written` as plain data. Raises RequestError."""
        ...

    async def delete(self, doc_id: str) -> dict[str, Any]:
        """A `Written` as plain data. Raises RequestError."""
        ...


def add_write_routes(
    app: FastAPI,
    settings: Serve,
    read: Callable[..., Awaitable[Any]],
    answer: Callable[[Any], Response],
    keys: tuple[tuple[str, ...], tuple[str, ...]],
    writer: Writer | None,
) -> dict[tuple[str, str], Callable[[Request], Awaitable[Response]]]:
    """The handlers, by method and path or its beginning. `read` is given the request, the body's model, and what looks
    at the key first; `keys` are those that read and those that write."""
    api_keys, write_keys = keys

    def writer_of(request: Request) -> Writer:
        if not write_keys or writer is None:
            raise RequestError(
                403,
                "writing_is_off",
                "nobody may write here: start the service with HYBRID_IR_WRITE_KEYS, or use hybrid-ir index replace or "
                "delete, then hybrid-ir swap",
            )
        given = request.headers.get("authorization", "")
        if not carries(given, write_keys):
            if carries(given, api_keys):
                raise RequestError(403, "read_only_key", "this key may read; to write, send a write key")
            raise RequestError(401, "unauthorized", "send a write key: Authorization: Bearer KEY")
        return writer

    @app.delete("/passages/{doc_id:path}", **documented(api.Written, None, 401, 404, 409, 429, 503, path=id_of_path))
    async def delete(request: Request) -> Response:
        """Delete one passage by its id. Answered once a version without it is served."""
        return answer(await writer_of(request).delete(request.scope["path"].removeprefix(PASSAGES)))

    @app.put("/passages", **documented(api.Written, api.PutRequest, 400, 401, 409, 413, 422, 429, 503))
    async def put(request: Request) -> Response:
        """Write passages: each takes the place of the one with its doc_id, or is added. Answered once it is served."""
        wanted = await read(request, api.PutRequest, writer_of)
        return answer(await writer_of(request).put(records_of(wanted, settings)))

    return {("DELETE", PASSAGES): delete, ("PUT", "/passages"): put}


def records_of(request: api.PutRequest, settings: Serve) -> list[dict[str, Any]]:
    """The passages, each checked as an index build checks its records. Raises RequestError that names the first that
    is wrong: then none is written."""
    records, places = [], {}
    for place, record in enumerate(request.passages):
        found = parse_passage(record, f"passages[{place}]")
        if isinstance(found, Rejected):
            raise RequestError(422, "invalid_passage", f"passages[{place}]: {found.reason}", f"passages[{place}]")
        if len(found.text) > settings.max_characters:
            said = f"the text may have {settings.max_characters} characters, got {len(found.text)}"
            raise RequestError(422, "invalid_passage", f"passages[{place}]: {said}", f"passages[{place}]")
        if (first := places.setdefault(found.doc_id, place)) != place:
            said = f"its doc_id {found.doc_id!r:.200} is that of passages[{first}]; send one of the two"
            raise RequestError(422, "invalid_passage", f"passages[{place}]: {said}", f"passages[{place}]")
        records.append({**found._asdict(), "metadata": dict(found.metadata)})
    return records
