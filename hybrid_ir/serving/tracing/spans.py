"""Spans of a request, from the gateway to the encoder and the shards. OpenTelemetry is imported where there are some.

In: whose work it is. Out: a span for each of them, and what takes them to another process.

A batch is of several requests, and each has a trace of its own. So what is done for a batch is a span in the trace of
each request that is in it: whoever looks at one request sees all that was done for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, NamedTuple

Carrier = dict[str, str]
"""`traceparent`, and `tracestate` if there is one, of W3C's Trace Context."""


class Caller(NamedTuple):
    """A span that work is done for."""

    tracer: Any
    """OpenTelemetry's `Tracer` of this process."""
    context: Any
    """OpenTelemetry's `Context` with that span in it."""


CALLERS: ContextVar[tuple[Caller, ...]] = ContextVar("callers", default=())
"""For whom this task works; nobody where there are no traces, and so for requests that are not sampled."""
NOTHING = nullcontext()


def within(name: str, callers: Sequence[Caller], attributes: Mapping[str, Any]) -> AbstractContextManager[object]:
    """A span of that name for each caller, around what is done in the block; nothing where there are none."""
    return spans(name, callers, attributes) if callers else NOTHING


@contextmanager
def spans(
    name: str, callers: Sequence[Caller], attributes: Mapping[str, Any], kind: str = "INTERNAL"
) -> Iterator[list[Any]]:
    """The spans, which the block's own are children of. An exception is said by its type alone: its message may hold
    what a user wrote."""
    from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context

    made = [
        caller.tracer.start_span(name, caller.context, kind=SpanKind[kind], attributes=attributes) for caller in callers
    ]
    inner = [
        Caller(caller.tracer, set_span_in_context(span))
        for caller, span in zip(callers, made, strict=True)
        if span.is_recording()
    ]
    token = CALLERS.set(tuple(inner))
    try:
        yield made
    except Exception as error:
        for span in made:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(StatusCode.ERROR)
        raise
    finally:
        CALLERS.reset(token)
        for span in made:
            span.end()


def carriers_of(callers: Sequence[Caller]) -> list[Carrier]:
    """What takes the callers to another process."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carriers: list[Carrier] = [{} for _ in callers]
    for caller, carrier in zip(callers, carriers, strict=True):
        TraceContextTextMapPropagator().inject(carrier, caller.context)
    return carriers


def caller_of(tracer: Any, carrier: Carrier) -> Caller:
    """Whoever the carrier comes from; nobody's child where it has nothing, or nothing that can be read."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return Caller(tracer, TraceContextTextMapPropagator().extract(carrier))


class Answering:
    """The spans of a replica: those of its methods, by the conventions for remote procedure calls."""

    def __init__(self, service: str, tracer: Any) -> None:
        """`tracer` is OpenTelemetry's; None = there are no traces."""
        self._service, self._tracer = service, tracer

    def send_rest(self) -> None:
        """Of a replica that is about to end."""
        if self._tracer is not None:
            from hybrid_ir.serving.tracing.exporting import send_rest

            send_rest(self._tracer)

    def __call__(self, method: str, carriers: Sequence[Carrier]) -> AbstractContextManager[object]:
        """Around a method that was called with those carriers."""
        if not carriers or self._tracer is None:
            return NOTHING
        attributes = {"rpc.service": self._service, "rpc.method": method}
        callers = [caller_of(self._tracer, carrier) for carrier in carriers]
        return spans(f"{self._service}/{method}", callers, attributes, "SERVER")
