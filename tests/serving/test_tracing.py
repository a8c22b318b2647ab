"""Spans of requests and their stages, by OpenTelemetry's own exporter into memory."""

from __future__ import annotations

from typing import Any

import pytest
from running import picture, post, running, until

from terrazzo.notes import TerrazzoWarning
from terrazzo.serving.tracing import Tracing, tracing_of

PNG = {"Content-Type": "image/png"}
TRACE, PARENT = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7


def test_a_request_is_a_span_with_its_stages_in_it() -> None:
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    exported = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter").InMemorySpanExporter()
    provider = trace.TracerProvider()
    provider.add_span_processor(trace.export.SimpleSpanProcessor(exported))
    with running() as server:
        server.house.tracing = Tracing(provider.get_tracer("terrazzo"))
        headers = {**PNG, "traceparent": f"00-{TRACE:032x}-{PARENT:016x}-01", "X-Request-Id": "seven"}
        assert post(server.url + "/v1/segment", content=picture(0)[0], headers=headers).status_code == 200
        assert post(server.url + "/v1/segment", content=b"no image", headers=PNG).status_code == 422
        until(lambda: len(exported.get_finished_spans()) == 6)
    spans: dict[str, Any] = {}
    for span in exported.get_finished_spans():
        spans.setdefault(span.name, []).append(span)
    assert sorted(spans) == ["POST /v1/segment", "compute", "decode", "encode", "queue"]
    good, bad = sorted(spans["POST /v1/segment"], key=lambda span: span.attributes["http.response.status_code"])
    assert (good.context.trace_id, good.parent.span_id) == (TRACE, PARENT) and bad.parent is None
    assert good.attributes["terrazzo.request_id"] == "seven" and good.attributes["http.route"] == "/v1/segment"
    assert bad.attributes["http.response.status_code"] == 422
    ends = 0
    for name in ("decode", "queue", "compute", "encode"):
        (stage,) = spans[name]
        assert stage.parent.span_id == good.context.span_id and stage.attributes["terrazzo.model"] == "colors"
        assert ends <= stage.start_time <= stage.end_time
        ends = stage.end_time


@pytest.mark.parametrize("environment", [{}, {"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_SERVICE_NAME": "x"}])
def test_without_the_environment_there_are_none(environment: dict[str, str]) -> None:
    tracing = tracing_of(environment)
    assert tracing._tracer is None
    with tracing.request("GET", {}, "x") as answered:
        answered("/x", 200)
    tracing.stage("decode", "m", 0.0)


def test_what_is_not_installed_is_said() -> None:
    with pytest.warns(TerrazzoWarning, match="OTEL_TRACES_EXPORTER=none"):
        assert tracing_of({"OTEL_TRACES_EXPORTER": "no-such-exporter"})._tracer is None


def test_the_exporter_of_the_environment_is_taken() -> None:
    pytest.importorskip("opentelemetry.sdk.trace")
    tracing = tracing_of({"OTEL_TRACES_EXPORTER": "console"})
    assert tracing._tracer is not None
    tracing.close()
