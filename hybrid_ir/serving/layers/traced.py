"""A span for each request, by OpenTelemetry's conventions for HTTP servers. In: an ASGI app. Out: the same app, traced.

A span has the route, never the path, the query or a header: a caller may have written a secret there.
"""

from __future__ import annotations

from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hybrid_ir.serving.layers.measured import PASSAGES, ROUTES, UNMEASURED
from hybrid_ir.serving.tracing.spans import caller_of, spans

METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH")


def traced(app: ASGIApp, tracer: Any) -> ASGIApp:
    """`app`, whose requests are spans of OpenTelemetry's `tracer`, in the trace that a `traceparent` names. Health
    checks are left out."""

    async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in UNMEASURED:
            return await app(scope, receive, send)
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        route = _route(scope["path"])
        attributes = {"http.request.method": method, "url.scheme": scope.get("scheme", "http")}
        if route is not None:
            attributes["http.route"] = route
        name = " ".join(part for part in ("HTTP" if method == "_OTHER" else method, route) if part)
        caller = caller_of(tracer, _carrier(scope))

        with spans(name, [caller], attributes, "SERVER") as (span,):

            async def note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    _say(span, message["status"])
                await send(message)

            await app(scope, receive, note)

    return asgi


def _say(span: Any, status: int) -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute("http.response.status_code", status)
    if status >= 500:  # a 4xx is the caller's own, and no error of the server
        span.set_attribute("error.type", str(status))
        span.set_status(StatusCode.ERROR)


def _carrier(scope: Scope) -> dict[str, str]:
    wanted = (b"traceparent", b"tracestate")
    return {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in wanted}


def _route(path: str) -> str | None:
    """The route as it is documented; None for a path that is none, or that none of our metrics names."""
    if path.startswith(PASSAGES):
        return f"{PASSAGES}{{doc_id}}"
    return path if path in ROUTES else None
