"""Cursors: where the next page begins, of which search, in which version of the index.

In: a request, or the cursor that an answer gave. Out: the place where its page begins, or a `RequestError`.

A cursor holds no text of the search, only a digest: the request says all of it again. It is not a secret. Whoever makes
one up gets a page that `offset` gives as well.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Collection
from typing import NamedTuple

from hybrid_ir.config import Serve
from hybrid_ir.index import Manifest
from hybrid_ir.serving.api import SearchRequest
from hybrid_ir.serving.checks import RequestError

FREE = {"k", "offset", "cursor", "fields", "highlights", "policy", "deadline_ms"}
"""What may change from page to page: the order does not depend on it."""


class Cursor(NamedTuple):
    """Where a page begins."""

    version: str
    """The index's."""
    search: str
    """A digest of what the order depends on besides."""
    position: int
    """Hits before the page."""
    missing: tuple[int, ...]
    """Numbers of the shards that did not answer on the page before."""


def page_of(request: SearchRequest, manifest: Manifest, settings: Serve) -> tuple[SearchRequest, Cursor | None]:
    """The request with its cursor as an offset, and the cursor. Its last page ends at `deepest`.

    Raises RequestError for a cursor of another version of the index or of another search.
    """
    if request.cursor is None:
        return request, None
    if request.offset is not None:
        raise RequestError(
            422, "invalid_request", "cursor: it takes the place of `offset`; send one of the two", "cursor"
        )
    cursor = _read(request.cursor)
    if cursor.version != manifest.index_version:
        raise RequestError(
            409,
            "index_changed",
            f"cursor: it is of version {cursor.version[:40]} of the index, and {manifest.index_version} is served now; "
            "begin anew with offset 0",
            "cursor",
        )
    if any(n >= len(manifest.shards) for n in cursor.missing):
        raise _no_cursor()
    if cursor.search != _digest(request, settings) or not 0 < cursor.position < deepest(request, settings):
        raise RequestError(
            422, "invalid_cursor", "cursor: it is of another search; send all that its first page asked", "cursor"
        )
    page = {"offset": cursor.position, "k": min(request.k, deepest(request, settings) - cursor.position)}
    return request.model_copy(update=page), cursor


def next_cursor(
    request: SearchRequest, manifest: Manifest, settings: Serve, most: int, missing: Collection[int]
) -> str | None:
    """The cursor of the page behind this one; None where none is. `most`: hits on the page of the query that has the
    most."""
    assert request.offset is not None
    position = request.offset + request.k
    if most < request.k or position >= deepest(request, settings):
        return None
    held = [manifest.index_version, _digest(request, settings), position, sorted(missing)]
    return base64.urlsafe_b64encode(json.dumps(held, separators=(",", ":")).encode()).decode().rstrip("=")


def deepest(request: SearchRequest, settings: Serve) -> int:
    """The last position that a page may have: `serve.max_k`, or as many of each ranking as are fused."""
    if request.lexical is None or request.lexical.depth is None:
        return settings.max_k
    return min(settings.max_k, request.lexical.depth)


def check_missing(cursor: Cursor, manifest: Manifest, missing: Collection[int]) -> None:
    """Raises RequestError where other shards answer than on the page before: what a shard adds moves all behind it."""
    if set(cursor.missing) != set(missing):
        before, now = (
            ", ".join(manifest.shards[n].name for n in sorted(numbers)) or "none"
            for numbers in (cursor.missing, missing)
        )
        raise RequestError(
            409,
            "shards_changed",
            f"cursor: on the page before, the shards that did not answer were {before}, and now {now}; begin anew with "
            "offset 0",
            "cursor",
        )


def _read(text: str) -> Cursor:
    try:
        version, search, position, missing = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        cursor = Cursor(version, search, position, tuple(missing))
        # A version is said again where it is not the one that is served, and half a character cannot be.
        if not isinstance(version, str) or not version.isascii() or not isinstance(search, str):
            raise ValueError
        if not all(type(n) is int and n >= 0 for n in (position, *missing)) or missing != sorted(set(missing)):
            raise ValueError
    except (binascii.Error, ValueError, TypeError, RecursionError):
        raise _no_cursor() from None
    return cursor


def _no_cursor() -> RequestError:
    said = "cursor: it is none that an answer gave as `next`; begin with offset 0"
    return RequestError(422, "invalid_cursor", said, "cursor")


def _digest(request: SearchRequest, settings: Serve) -> str:
    """Of all that the order depends on but the index: the search, how deep pages are cut, and how it is encoded."""
    asked = request.model_dump(exclude=FREE, exclude_none=True)
    said = json.dumps([asked, settings.max_k, settings.precision], sort_keys=True)
    return hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
