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
from mcp.gateway.trace import (
    STATE_CHARS_MAX,
    STATE_MEMBERS_MAX,
    TraceContext,
    carrier,
    continued,
    read_trace,
    read_traceparent,
    read_tracestate,
)

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


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", None),
        ("a=1 , b=2\t,,c=3,", "a=1,b=2,c=3"),
        ("0tenant@vendor=x", None),
        ("a_-*/9=!~ x", None),
        (",".join(f"k{n}=v" for n in range(STATE_MEMBERS_MAX)), None),
        ("a=" + "x" * 256, None),
        ("k" * 256 + "=" + "x" * 255, None),
        (",".join(f"k{n}=v" for n in range(STATE_MEMBERS_MAX + 1)), ""),
        ("a=" + "x" * 257, ""),
        ("k" * 257 + "=x", ""),
        ("a=" + "x" * 255 + ",b=" + "x" * (STATE_CHARS_MAX - 260), None),
        ("a=" + "x" * 255 + ",b=" + "x" * (STATE_CHARS_MAX - 259), ""),
        ("a=1,a=2", ""),
        ("A=1", ""),
        ("9a=1", ""),
        ("a@9=1", ""),
        ("a=", ""),
        ("a", ""),
        ("a=b=c", ""),
        ("a=1;b=2", ""),
        ("a=\x7f", ""),
        ("a=é", ""),
        ("", ""),
    ],
)
def test_what_others_say_of_a_trace_is_handed_on_or_dropped(text: str, read: str | None) -> None:
    assert read_tracestate(text) == (text if read is None else read)
    found = read_trace(HEADER, text)
    assert found is not None
    state = {"tracestate": read_tracestate(text)} if read != "" else {}
    child = continued(found, random.Random(1))
    assert child.headers == {"traceparent": child.traceparent, **state}
    assert read_trace("nonsense", text) is None


@given(st.text(max_size=600))
def test_what_is_handed_on_is_small_and_stays_what_it_is(text: str) -> None:
    read = read_tracestate(text)
    assert len(read) <= STATE_CHARS_MAX
    assert read_tracestate(read) == read


def test_headers_that_are_there_several_times_are_put_together() -> None:
    given_ = [("TraceState", "a=1"), ("x", "y"), ("tracestate", "b=2"), ("traceparent", HEADER), ("t", b"x")]
    assert carrier(given_) == {"tracestate": "a=1,b=2", "traceparent": HEADER}
    assert read_trace(carrier([*given_, ("traceparent", HEADER)])["traceparent"], "a=1") is None


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
        assert seen.headers["traceparent"].startswith(f"00-{TRACE}-")
        assert PARENT not in seen.headers["traceparent"]
        assert "tracestate" not in seen.headers
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
                answer = await gateway.post(where, body, {"traceparent": HEADER, "tracestate": "a=1, b=2"})
                assert answer.headers["traceparent"].startswith(f"00-{TRACE}-")
                assert answer.headers["tracestate"] == "a=1,b=2"
            parts = gateway.node._parts
            assert parts is not None
            record = parts.state.inferences.get("traced")
            assert record is not None
            assert record.trace_id == TRACE
            told = (await gateway.post("/mcp/v1/messages", body, {"traceparent": HEADER})).value
            assert told["trace_id"] == TRACE
            for header in ({}, {"traceparent": "nonsense", "tracestate": "a=1"}):
                answer = await gateway.post("/nowhere", b"", header)
                assert "tracestate" not in answer.headers
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
    with spans.request("infer", {"traceparent": HEADER, "tracestate": "a=1"}) as span:
        assert (span.context.trace_id, span.context.state) == (TRACE, "a=1")
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
