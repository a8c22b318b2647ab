"""Spans of OpenTelemetry: one for each request, and in it one for each stage: decode, queue, compute, encode.

They are off unless the environment asks for them as every program's: OTEL_TRACES_EXPORTER or
OTEL_EXPORTER_OTLP_ENDPOINT. The packages opentelemetry-sdk and, for `otlp`, opentelemetry-exporter-otlp make and send
them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any

from terrazzo.notes import note

__all__ = ["Tracing", "tracing_of"]

ASKED = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
EXPORTERS = "opentelemetry_traces_exporter"  # what packages call their exporters in, by the names of the variable


class Tracing:
    """Makes spans, or where there is no tracer does nothing.

    Args:
        tracer: OpenTelemetry's.
        close: sends what is left.
    """

    def __init__(self, tracer: Any = None, close: Callable[[], None] = lambda: None) -> None:
        self._tracer, self.close = tracer, close
        self._epoch = time.time_ns() - time.monotonic_ns()  # once, so that spans keep the order of what they tell of

    @contextmanager
    def request(self, method: str, headers: Mapping[str, str], number: str) -> Iterator[Callable[[str, int], None]]:
        """Make a span of a block, below the caller's own if the request says so; give it its route and status."""
        if self._tracer is None:
            yield lambda route, status: None
            return
        from opentelemetry import propagate
        from opentelemetry.trace import SpanKind, Status, StatusCode

        with self._tracer.start_as_current_span(
            method,
            propagate.extract(dict(headers)),
            SpanKind.SERVER,
            {"http.request.method": method, "terrazzo.request_id": number},
        ) as span:

            def answered(route: str, status: int) -> None:
                span.update_name(f"{method} {route}")
                span.set_attributes({"http.route": route, "http.response.status_code": status})
                if status >= 500:
                    span.set_status(Status(StatusCode.ERROR))

            yield answered

    def stage(self, name: str, model: str, begun: float, ended: float | None = None) -> None:
        """Make a span of what is over: from one time to another of `time.monotonic`, by default to now."""
        if self._tracer is not None:
            ended = time.monotonic() if ended is None else ended
            start, end = (self._epoch + int(seconds * 1e9) for seconds in (begun, ended))
            self._tracer.start_span(name, attributes={"terrazzo.model": model}, start_time=start).end(end)


def tracing_of(environment: Mapping[str, str] = os.environ) -> Tracing:
    """Return what the environment asks for."""
    exporter = environment.get("OTEL_TRACES_EXPORTER", "otlp").strip() or "otlp"
    is_asked = any(environment.get(name) for name in ASKED)
    if not is_asked or exporter == "none" or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return Tracing()
    try:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        (found,) = entry_points(group=EXPORTERS, name=exporter)
        provider = TracerProvider()  # which reads the name of the service and the sampler from the environment
        provider.add_span_processor(BatchSpanProcessor(found.load()()))
    except (ImportError, ValueError):
        note(
            f"the environment asks for traces, and the packages for {exporter} are not installed: run "
            "pip install opentelemetry-sdk opentelemetry-exporter-otlp, or set OTEL_TRACES_EXPORTER=none"
        )
        return Tracing()
    return Tracing(provider.get_tracer("terrazzo"), provider.shutdown)
