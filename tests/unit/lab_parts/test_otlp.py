# SPDX-License-Identifier: Apache-2.0
"""Spans that arrive by OTLP: kept, bounded, shown."""

import gzip

import aiohttp
import grpc.aio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from pointsman_lab.otlp.sink import OtlpSink
from pointsman_lab.otlp.store import Span, SpanStore
from pointsman_lab.otlp.waterfall import jaeger_export, render_waterfall


def span(number: int, *, trace: str = "t", parent: int = 0, start: int = 0, end: int = 10, name: str = "") -> Span:
    return Span(
        trace_id=trace,
        span_id=f"{number:016x}",
        parent_id=f"{parent:016x}" if parent else "",
        name=name or f"span-{number}",
        service="planner",
        host="control",
        start_ns=start * 1_000_000,
        end_ns=end * 1_000_000,
        attributes={"service": "default/web", "count": 3},
    )


def test_the_oldest_trace_goes_first() -> None:
    store = SpanStore(traces_max=2)
    for trace in ("a", "b", "c"):
        store.add([span(1, trace=trace)])
    assert [len(store.trace(trace)) for trace in ("a", "b", "c")] == [0, 1, 1]
    assert store.dropped == 1


def test_a_trace_is_bounded_and_a_repeated_span_counts_once() -> None:
    store = SpanStore(spans_per_trace_max=2)
    store.add([span(1), span(1), span(2), span(3)])
    assert [found.name for found in store.trace("t")] == ["span-1", "span-2"]
    assert store.dropped == 1


def test_traces_are_found_by_attribute_latest_first() -> None:
    store = SpanStore()
    store.add([span(1, trace="a"), span(2, trace="b")])
    assert store.find(attribute="service", value="default/web") == ("b", "a")
    assert store.find(attribute="service", value="other") == ()
    assert store.find(name="span-1") == ("a",)


def test_the_waterfall_puts_children_under_parents() -> None:
    text = render_waterfall([span(2, parent=1, start=5, end=8), span(1, end=10), span(3, parent=9, start=9)])
    rows = [line.split("|")[0].split() for line in text.splitlines()[1:]]
    assert [row[2] for row in rows] == ["span-1", "span-2", "span-3"]
    assert text.splitlines()[2].index("span-2") == text.splitlines()[1].index("span-1") + 2
    assert render_waterfall([]) == "(no spans)"


def test_jaeger_gets_references_processes_and_microseconds() -> None:
    (trace,) = jaeger_export([[span(1), span(2, parent=1, start=5)]])["data"]
    assert trace["spans"][1]["references"] == [{"refType": "CHILD_OF", "traceID": "t", "spanID": f"{1:016x}"}]
    assert trace["spans"][1]["startTime"] == 5_000
    assert trace["processes"]["p1"]["serviceName"] == "planner"


async def test_the_sink_takes_what_an_exporter_sends() -> None:
    store = SpanStore()
    sink = OtlpSink(store)
    port = await sink.start("127.0.0.1:0")
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = "pointsman-watcher"
    sent = resource.scope_spans.add().spans.add(
        trace_id=bytes(range(16)),
        span_id=bytes(range(8)),
        name="watch.event",
        start_time_unix_nano=1,
        end_time_unix_nano=2,
    )
    sent.attributes.add(key="revision").value.int_value = 7
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = TraceServiceStub(channel)  # type: ignore[no-untyped-call]  # the library types no stubs
        await stub.Export(request)
    sent.name, sent.span_id = "plan.compute", bytes(range(8, 16))
    http_port = await sink.start_http("127.0.0.1", 0)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{http_port}") as session:
        for body, status in ((gzip.compress(request.SerializeToString()), 200), (b"\xff", 400), (b"\x1f\x8b", 400)):
            async with session.post("/v1/traces", data=body) as response:
                assert response.status == status
    await sink.stop()
    found = store.trace(bytes(range(16)).hex())
    assert [(each.service, each.name, each.attributes) for each in found] == [
        ("pointsman-watcher", "watch.event", {"revision": 7}),
        ("pointsman-watcher", "plan.compute", {"revision": 7}),
    ]
