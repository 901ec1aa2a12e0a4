"""The trace of a request: which it is, where it goes, and OpenTelemetry's spans where that is installed."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from served_node import serving

from mcp.client.tracing import current_trace, traced
from mcp.gateway.observer import Observer
from mcp.gateway.spans import Spans
from mcp.gateway.trace import TraceContext, continued, read_traceparent

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADER = f"00-{TRACE}-{PARENT}-01"


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (HEADER, True),
        (f"cc-{TRACE}-{PARENT}-01-what-the-future-will-be", True),
        (f"cc-{TRACE}-{PARENT}-01.what", False),
        (f"00-{TRACE}-{PARENT}-01-more", False),
        (f"ff-{TRACE}-{PARENT}-01", False),
        (f"00-{'0' * 32}-{PARENT}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (HEADER.upper(), False),
        (HEADER + " ", False),
        (HEADER[:-1], False),
        ("cc" + HEADER[2:] + "-" + "x" * 10_000, False),
        ("", False),
        (None, False),
    ],
)
def test_a_header_is_read_or_counts_as_none(text: str | None, valid: bool) -> None:
    found = read_traceparent(text)
    assert (found is not None) == valid
    assert found in (None, TraceContext(TRACE, PARENT, "01"))


@given(st.text(max_size=80) | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"))
def test_what_is_read_is_written_alike(text: str) -> None:
    found = read_traceparent(text)
    if found is not None:
        assert read_traceparent(found.traceparent) == found


def test_a_trace_is_continued_or_begun() -> None:
    parent = TraceContext(TRACE, PARENT, "01")
    child = continued(parent, random.Random(1))
    assert (child.trace_id, child.flags, child.span_id != PARENT) == (TRACE, "01", True)
    fresh = continued(None, random.Random(1))
    assert read_traceparent(fresh.traceparent) == fresh


def test_without_opentelemetry_spans_are_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp.gateway.spans._opentelemetry", lambda: None)
    observer = Observer()
    with observer.request("http", "infer", {"traceparent": HEADER}) as seen:
        assert current_trace() == TRACE
        assert seen.traceparent.startswith(f"00-{TRACE}-")
        assert PARENT not in seen.traceparent
    assert current_trace() == ""


def test_a_trace_ends_with_its_block() -> None:
    with traced("a"):
        with traced("b"):
            assert current_trace() == "b"
        assert current_trace() == "a"


def test_http_takes_a_trace_in_and_gives_it_out(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.client.deploy("strings", MODELS / "strings.onnx")
            body = {
                "mcp_version": "1.0",
                "type": "INFER_REQUEST",
                "id": "traced",
                "payload": {"model_hint": "strings", "data_chunk": "x"},
            }
            for where in ("/mcp/v1/messages", "/mcp/v1/inferences"):
                answer = await gateway.post(where, body, {"traceparent": HEADER})
                assert answer.headers["traceparent"].startswith(f"00-{TRACE}-")
            parts = gateway.node._parts
            assert parts is not None
            record = parts.state.inferences.get("traced")
            assert record is not None
            assert record.trace_id == TRACE
            told = (await gateway.post("/mcp/v1/messages", body, {"traceparent": HEADER})).value
            assert told["trace_id"] == TRACE
            for header in ({}, {"traceparent": "nonsense"}):
                answer = await gateway.post("/nowhere", b"", header)
                found = read_traceparent(answer.headers["traceparent"])
                assert found is not None
                assert found.trace_id != TRACE

    asyncio.run(scenario())


MODELS = Path(__file__).parents[2] / "executor" / "models"


def test_native_requests_carry_the_trace_of_their_task(tmp_path: Path) -> None:
    """What a node is asked has the trace that the task says, and one of its own where it says none."""

    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            seen: list[str] = []
            parts = gateway.node._parts
            assert parts is not None
            answering = parts.dispatch.on_request
            parts.dispatch.on_request = lambda exchange: (  # type: ignore[method-assign]
                seen.append(exchange.message.trace_id),
                answering(exchange),
            )[1]
            with traced(TRACE):
                await gateway.client.models()
            await gateway.client.models()
            assert seen[0] == TRACE
            assert len(seen[1]) == 32
            assert seen[1] != TRACE

    asyncio.run(scenario())


def test_inferences_that_go_together_carry_the_trace_of_the_first(tmp_path: Path) -> None:
    x = np.ones((1, 64), np.float32)

    async def scenario() -> None:
        async with serving(tmp_path) as gateway:
            await gateway.deploy("dense")
            client = gateway.client
            seen: list[tuple[str, int]] = []
            parts = gateway.node._parts
            assert parts is not None
            answering = parts.dispatch.on_request

            def on_request(exchange: Any) -> None:
                message = exchange.message
                if message.type == "INFER_REQUEST":
                    seen.append((message.trace_id, message.payload["inputs"][0]["shape"][0]))
                answering(exchange)

            await client.infer("dense", x)
            parts.dispatch.on_request = on_request  # type: ignore[method-assign]
            with traced(TRACE):
                await asyncio.gather(*(client.infer("dense", x) for _ in range(8)))
            assert max(rows for _, rows in seen) > 1, "nothing went together"
            assert {trace for trace, _ in seen} == {TRACE}

    asyncio.run(scenario())


def test_opentelemetry_records_a_span_of_each_request(tmp_path: Path) -> None:
    sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="needs opentelemetry-sdk")
    from opentelemetry import trace
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    spans = Spans(random.Random(1))
    with spans.request("infer", {"traceparent": HEADER}) as span:
        assert span.context.trace_id == TRACE
        span.ended("http", "503", "UNAVAILABLE")
    (found,) = exporter.get_finished_spans()
    assert (found.name, found.kind, f"{found.context.span_id:016x}") == (
        "infer",
        trace.SpanKind.SERVER,
        span.context.span_id,
    )
    assert found.parent is not None
    assert f"{found.parent.span_id:016x}" == PARENT
    assert found.attributes == {"http.response.status_code": 503, "error.type": "UNAVAILABLE"}
    assert found.status.status_code is trace.StatusCode.ERROR
    with spans.request("ModelInfer", {}) as span:
        span.ended("grpc", "OK", None)
    assert exporter.get_finished_spans()[1].attributes == {
        "rpc.system": "grpc",
        "rpc.response.status_code": "OK",
    }
