# SPDX-License-Identifier: Apache-2.0
"""The OTLP receiver, by gRPC and by HTTP: both feed the span store."""

import gzip
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio
from aiohttp import web
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from pointsman_lab.otlp.decode import decode_spans
from pointsman_lab.otlp.store import SpanStore
from pointsman_lab.pki import Identity

_EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_GZIP = b"\x1f\x8b"


class OtlpSink:
    """Listens for spans; with an identity only for clients that the same authority knows, else in plaintext."""

    def __init__(self, store: SpanStore, identity: Identity | None = None) -> None:
        """Takes where the spans go, and what to serve with."""
        self._store = store
        self._identity = identity
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((_Handler(self._export),))
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/traces", self._post)
        self._runner = web.AppRunner(app)

    async def start(self, address: str) -> int:
        """Listens for gRPC at HOST:PORT and answers with the port.

        Raises:
            RuntimeError: the address is taken.
        """
        if self._identity is None:
            port = self._server.add_insecure_port(address)
        else:
            port = self._server.add_secure_port(address, _server_credentials(self._identity))
        await self._server.start()
        return port

    async def start_http(self, host: str, port: int) -> int:
        """Listens for HTTP as well and answers with the port.

        Raises:
            OSError: the address is taken.
        """
        await self._runner.setup()
        context = None if self._identity is None else _server_context(self._identity)
        await web.TCPSite(self._runner, host, port, ssl_context=context).start()
        bound: int = self._runner.addresses[0][1]
        return bound

    async def stop(self) -> None:
        """Stops at once."""
        await self._server.stop(None)
        await self._runner.cleanup()

    async def _export(self, request: ExportTraceServiceRequest, _context: object) -> ExportTraceServiceResponse:
        self._store.add(decode_spans(request))
        return ExportTraceServiceResponse()

    async def _post(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            export = ExportTraceServiceRequest.FromString(gzip.decompress(body) if body.startswith(_GZIP) else body)
        except (DecodeError, OSError, EOFError) as error:
            raise web.HTTPBadRequest(text=f"no OTLP export: {error}") from error
        self._store.add(decode_spans(export))
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf"
        )


def _server_credentials(identity: Identity) -> grpc.ServerCredentials:
    pair = (identity.key.read_bytes(), identity.certificate.read_bytes())
    return grpc.ssl_server_credentials([pair], root_certificates=identity.ca.read_bytes(), require_client_auth=True)


def _server_context(identity: Identity) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=identity.ca)
    context.load_cert_chain(identity.certificate, identity.key)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


class _Handler(grpc.GenericRpcHandler):
    """Routes the one method; the library's stubs for it carry no types."""

    def __init__(self, export: Callable[..., Awaitable[ExportTraceServiceResponse]]) -> None:
        self._method = grpc.unary_unary_rpc_method_handler(
            export,
            request_deserializer=ExportTraceServiceRequest.FromString,
            response_serializer=ExportTraceServiceResponse.SerializeToString,
        )

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """The handler of the method that was called, if it is ours."""
        return self._method if handler_call_details.method == _EXPORT else None
