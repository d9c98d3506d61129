"""Where spans go. In: OpenTelemetry's own variables (OTEL_...). Out: a tracer whose spans are exported as they say.

Endpoint, headers, sampling, batches and the service's name are read by OpenTelemetry's SDK itself.
"""

from __future__ import annotations

import os
import threading
from importlib.metadata import entry_points
from typing import Any

import hybrid_ir
from hybrid_ir.types import InputError

GROUP = "opentelemetry_traces_exporter"
SEND_S = 2
"""A process that ends waits so long for where its spans go."""


def tracer_of(part: str, exporter: Any = None) -> Any:
    """The tracer of a process, whose spans say which `part` of the service it is. `exporter` in place of those that the
    variables name. Raises InputError where one is not installed."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "hybrid-ir"}
    # Not the global provider: that is Ray's own, where its tracing is on.
    provider = TracerProvider(resource=Resource.create({**named, "service.instance.id": f"{part}-{os.getpid()}"}))
    for each in [exporter] if exporter is not None else [make() for make in exporters()]:
        provider.add_span_processor(BatchSpanProcessor(each))
    return provider.get_tracer("hybrid_ir", hybrid_ir.__version__)


def send_rest(tracer: Any) -> None:
    """Send what a process that is about to end has not sent yet, within `SEND_S`. Serve kills it next, and nothing that
    Python does at its end is done then."""
    # In a thread: the processor's own timeout holds up nobody (opentelemetry-python issue 4568).
    sending = threading.Thread(target=tracer.span_processor.force_flush, daemon=True)
    sending.start()
    sending.join(SEND_S)


def exporters() -> list[Any]:
    """Classes of the exporters that OTEL_TRACES_EXPORTER names: otlp by default, console, none, or what else is
    installed. Raises InputError for one that is not."""
    asked = [name.strip() for name in os.environ.get("OTEL_TRACES_EXPORTER", "otlp").split(",")]
    return [_exporter(name) for name in asked if name not in ("", "none")]


def _exporter(name: str) -> Any:
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "")
    wanted = name
    if name == "otlp":
        wanted = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    found = next(iter(entry_points(group=GROUP, name=wanted)), None)
    if found is None:
        there = ", ".join(sorted(entry_points(group=GROUP).names)) or "none"
        remedy = "pip install 'hybrid-ir[traces]'"
        if wanted == "otlp_proto_grpc":
            remedy = "pip install opentelemetry-exporter-otlp-proto-grpc"
        raise InputError(
            f"serve.traces needs the exporter {wanted} (OTEL_TRACES_EXPORTER={name}), and there are {there}: {remedy}, "
            "or leave serve.traces out"
        )
    return found.load()
