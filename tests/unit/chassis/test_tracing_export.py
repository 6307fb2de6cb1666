# SPDX-License-Identifier: Apache-2.0
"""Spans reach a real OTLP collector, configured by nothing but the environment."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from pointsman_chassis.server import GrpcServer, typed_unary_unary
from pointsman_chassis.tls import TransportSecurity
from pointsman_chassis.tracing import Tracing


class Collector:
    """The collector's side of OTLP: remembers resource and span names."""

    def __init__(self) -> None:
        self.received: list[tuple[str, str]] = []

    async def export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:
        for resource in request.resource_spans:
            names = [item.value.string_value for item in resource.resource.attributes if item.key == "service.name"]
            spans = [span.name for scope in resource.scope_spans for span in scope.spans]
            self.received.extend((name, span) for name in names for span in spans)
        return ExportTraceServiceResponse()


@asynccontextmanager
async def collecting() -> AsyncIterator[tuple[Collector, str]]:
    collector = Collector()
    server = GrpcServer(address="127.0.0.1:0", security=TransportSecurity(insecure=True))
    export = typed_unary_unary(
        collector.export,
        request_deserializer=ExportTraceServiceRequest.FromString,
        response_serializer=ExportTraceServiceResponse.SerializeToString,
    )
    server.add_raw_service("opentelemetry.proto.collector.trace.v1.TraceService", {"Export": export})
    port = await server.start()
    try:
        yield collector, f"http://127.0.0.1:{port}"
    finally:
        await server.stop(grace_seconds=0)


async def test_a_span_arrives_at_the_collector_under_the_services_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async with collecting() as (collector, endpoint), asyncio.timeout(60):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        tracing = Tracing.from_environment("pointsman-planner")
        with tracing.start_trace("watch.event"):
            pass
        await tracing.shutdown(timeout_seconds=30)
        assert collector.received == [("pointsman-planner", "watch.event")]


async def test_the_environment_may_name_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    async with collecting() as (collector, endpoint), asyncio.timeout(60):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "planner-east")
        tracing = Tracing.from_environment("pointsman-planner")
        tracing.new_traceparent("watch.event", start_ns=1, end_ns=2)
        await tracing.shutdown(timeout_seconds=30)
        assert collector.received == [("planner-east", "watch.event")]
