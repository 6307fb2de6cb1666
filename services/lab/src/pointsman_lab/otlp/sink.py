# SPDX-License-Identifier: Apache-2.0
"""The OTLP receiver: one gRPC method that feeds the span store."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from pointsman_lab.otlp.decode import decode_spans
from pointsman_lab.otlp.store import SpanStore

_EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


class OtlpSink:
    """Listens for spans; plaintext, for the lab's own network or loopback."""

    def __init__(self, store: SpanStore) -> None:
        """Takes where the spans go."""
        self._store = store
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((_Handler(self._export),))

    async def start(self, address: str) -> int:
        """Listens at HOST:PORT and answers with the port.

        Raises:
            RuntimeError: the address is taken.
        """
        port = self._server.add_insecure_port(address)
        await self._server.start()
        return port

    async def stop(self) -> None:
        """Stops at once."""
        await self._server.stop(None)

    async def _export(self, request: ExportTraceServiceRequest, _context: object) -> ExportTraceServiceResponse:
        self._store.add(decode_spans(request))
        return ExportTraceServiceResponse()


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
