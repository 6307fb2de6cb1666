# SPDX-License-Identifier: Apache-2.0
"""An OTLP collector on loopback: gRPC or HTTP, plain or with mutual TLS; keeps spans and headers."""

from __future__ import annotations

import gzip
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from pointsman_chassis.tls import TransportSecurity
from pointsman_lab.otlp.decode import decode_spans
from pointsman_lab.otlp.store import Span

GRPC, HTTP = "grpc", "http/protobuf"


@dataclass
class Collector:
    """What came."""

    endpoint: str = ""
    spans: list[Span] = field(default_factory=list)
    resources: list[dict[str, str]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)

    def take(self, request: ExportTraceServiceRequest, headers: Mapping[str, str]) -> None:
        """One export."""
        self.headers.append(headers)
        self.spans.extend(decode_spans(request))
        for each in request.resource_spans:
            self.resources.append({item.key: item.value.string_value for item in each.resource.attributes})

    @property
    def names(self) -> list[str]:
        """Names of the spans, in order of arrival."""
        return [span.name for span in self.spans]


@asynccontextmanager
async def collecting(
    protocol: str = GRPC, *, tls: TransportSecurity | None = None, port: int = 0
) -> AsyncIterator[Collector]:
    """A collector; `tls` are its certificate and the authority that clients' certificates must be of."""
    serve = _over_grpc if protocol == GRPC else _over_http
    async with serve(Collector(), tls, port) as collector:
        yield collector


@asynccontextmanager
async def _over_grpc(collector: Collector, tls: TransportSecurity | None, port: int) -> AsyncIterator[Collector]:
    async def export(request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:
        collector.take(request, {key: str(value) for key, value in context.invocation_metadata()})
        return ExportTraceServiceResponse()

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        export,
        request_deserializer=ExportTraceServiceRequest.FromString,
        response_serializer=ExportTraceServiceResponse.SerializeToString,
    )
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": handler}),))
    if tls is None:
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
    else:
        bound = server.add_secure_port(f"127.0.0.1:{port}", _credentials(tls))
    await server.start()
    collector.endpoint = _endpoint(tls, bound)
    try:
        yield collector
    finally:
        await server.stop(None)


def _credentials(tls: TransportSecurity) -> grpc.ServerCredentials:
    key, certificate, authority = (Path(name).read_bytes() for name in (tls.key_file, tls.cert_file, tls.ca_file))
    return grpc.ssl_server_credentials([(key, certificate)], root_certificates=authority, require_client_auth=True)


@asynccontextmanager
async def _over_http(collector: Collector, tls: TransportSecurity | None, port: int) -> AsyncIterator[Collector]:
    async def export(request: web.Request) -> web.Response:
        body = await request.read()
        if body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        collector.take(ExportTraceServiceRequest.FromString(body), request.headers)
        return web.Response(body=ExportTraceServiceResponse().SerializeToString())

    app = web.Application()
    app.router.add_post("/v1/traces", export)
    runner = web.AppRunner(app)
    await runner.setup()
    context = None
    if tls is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tls.ca_file)
        context.load_cert_chain(tls.cert_file, tls.key_file)
        context.verify_mode = ssl.CERT_REQUIRED
    site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=context)
    await site.start()
    collector.endpoint = _endpoint(tls, runner.addresses[0][1])
    try:
        yield collector
    finally:
        await runner.cleanup()


def _endpoint(tls: TransportSecurity | None, port: int) -> str:
    return f"http://127.0.0.1:{port}" if tls is None else f"https://localhost:{port}"
