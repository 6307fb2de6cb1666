# SPDX-License-Identifier: Apache-2.0
"""A gRPC server with what every Pointsman server has: health per service, reflection by flag, bounds, TLS.

Services whose messages are encoded once and sent to many use raw handlers: the response serializer is the identity,
so a handler yields the bytes of a message.
"""

from collections.abc import Mapping
from typing import Any, Final

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from pointsman_chassis.credentials import server_credentials
from pointsman_chassis.errors import ConfigError
from pointsman_chassis.grpc_options import KEEPALIVE_TIME_SECONDS, KEEPALIVE_TIMEOUT_SECONDS, Options, common_options
from pointsman_chassis.guard import Guard
from pointsman_chassis.tls import TransportSecurity, require_local

_OVERALL: Final = ""


class GrpcServer:
    """Owns one grpc.aio server. Order of use: construct, add services, `start`, `set_serving`, `stop`."""

    def __init__(
        self,
        *,
        address: str,
        security: TransportSecurity,
        guard: Guard[Any] | None = None,
        token_address: str = "",
        reflection_enabled: bool = False,
        concurrent_calls_max: int | None = None,
        keepalive_time_seconds: float = KEEPALIVE_TIME_SECONDS,
        keepalive_timeout_seconds: float = KEEPALIVE_TIMEOUT_SECONDS,
    ) -> None:
        """`token_address` is one more to listen on, with TLS and without asking for a certificate: a guard must ask.

        Raises:
            ConfigError: the certificates are unusable, or plaintext would leave this machine.
        """
        self._address = address
        self._credentials = server_credentials(security)
        self._token_address = token_address
        self._token_credentials = server_credentials(security, asks_certificate=False) if token_address else None
        if self._credentials is None:
            require_local(address, what="listen on")
            if token_address:
                raise ConfigError(f"{token_address}: callers with tokens need TLS, not `insecure: true`")
        if token_address and guard is None:
            raise ValueError("an address for callers with tokens needs a guard")
        self._reflection_enabled = reflection_enabled
        options = common_options(
            keepalive_time_seconds=keepalive_time_seconds, keepalive_timeout_seconds=keepalive_timeout_seconds
        )
        self._server = grpc.aio.server(
            options=_with_limits([*options, *_server_options(keepalive_time_seconds)], guard),
            interceptors=(guard,) if guard is not None else (),
            maximum_concurrent_rpcs=concurrent_calls_max,
        )
        self.token_port = 0
        """Port of `token_address`, once started."""
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._services: list[str] = []
        self._serving: frozenset[str] = frozenset()

    @property
    def server(self) -> grpc.aio.Server:
        """The server itself, for the generated `add_...Servicer_to_server` functions; follow with `declare`."""
        return self._server

    def declare(self, service: str) -> None:
        """Name a service (`pointsman.plan.v1.PlanService`) that was added: it gets a health status and reflection."""
        self._services.append(service)

    def add_raw_service(self, service: str, methods: Mapping[str, "grpc.RpcMethodHandler[Any, Any]"]) -> None:
        """Add a service from method handlers, as made by `raw_stream_stream` and its like; declares it too."""
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, dict(methods)),))
        self.declare(service)

    async def start(self) -> int:
        """Listen and serve; every declared service begins as NOT_SERVING. Returns the port, 0 for a unix socket.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        if self._reflection_enabled:
            names = (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)
        for service in (_OVERALL, *self._services):
            await self._set(service, serving=False)
        try:
            if self._credentials is None:
                port = self._server.add_insecure_port(self._address)
            else:
                port = self._server.add_secure_port(self._address, self._credentials)
            if self._token_credentials is not None:
                self.token_port = self._server.add_secure_port(self._token_address, self._token_credentials)
        except (RuntimeError, ValueError) as error:
            where = f"{self._address} and {self._token_address}" if self._token_address else self._address
            raise ConfigError(f"cannot listen on {where}: is the address local and the port free?") from error
        await self._server.start()
        return 0 if self._address.startswith("unix:") else port

    async def set_serving(self, service: str, *, serving: bool) -> None:
        """Publish one service's readiness; the overall status serves while every declared service does."""
        if service not in self._services:
            raise ValueError(f"{service} was not declared; known are {self._services}")
        await self._set(service, serving=serving)
        self._serving = self._serving | {service} if serving else self._serving - {service}
        await self._set(_OVERALL, serving=self._serving.issuperset(self._services))

    async def stop(self, *, grace_seconds: float = 1.0) -> None:
        """Report NOT_SERVING, refuse new calls, let those in progress end for `grace_seconds`, then cut them."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_seconds)

    async def wait_stopped(self) -> None:
        """Return when the server has stopped."""
        await self._server.wait_for_termination()

    async def _set(self, service: str, *, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        await self._health.set(service, status)


def raw_unary_stream(behaviour: Any, *, request_deserializer: Any) -> "grpc.RpcMethodHandler[Any, bytes]":
    """Handler of a server-streaming method whose responses are bytes already."""
    return grpc.unary_stream_rpc_method_handler(
        behaviour, request_deserializer=request_deserializer, response_serializer=None
    )


def raw_stream_stream(behaviour: Any, *, request_deserializer: Any) -> "grpc.RpcMethodHandler[Any, bytes]":
    """Handler of a bidirectional method whose responses are bytes already."""
    return grpc.stream_stream_rpc_method_handler(
        behaviour, request_deserializer=request_deserializer, response_serializer=None
    )


def typed_unary_unary(
    behaviour: Any, *, request_deserializer: Any, response_serializer: Any
) -> "grpc.RpcMethodHandler[Any, Any]":
    """Handler of an ordinary unary method, for services that mix it with raw streams."""
    return grpc.unary_unary_rpc_method_handler(
        behaviour, request_deserializer=request_deserializer, response_serializer=response_serializer
    )


def _with_limits(options: Options, guard: Guard[Any] | None) -> Options:
    """What gRPC itself holds back before a guard is asked."""
    if guard is None:
        return options
    # Twice, so that the guard sees, counts and answers most messages that are too large; gRPC cuts off the rest.
    limited = [("grpc.max_receive_message_length", 2 * guard.limits.request_bytes_max)]
    limited.append(("grpc.server_handshake_timeout_ms", round(guard.limits.request_timeout * 1000)))
    return [option for option in options if option[0] != "grpc.max_receive_message_length"] + limited


def _server_options(keepalive_time_seconds: float) -> Options:
    return [
        # Two processes on one port would each get half of the connections, silently.
        ("grpc.so_reuseport", 0),
        # Peers ping at our own rate; without this a server answers the third ping with "too many pings".
        ("grpc.http2.min_recv_ping_interval_without_data_ms", round(keepalive_time_seconds * 500)),
        ("grpc.http2.min_ping_interval_without_data_ms", round(keepalive_time_seconds * 500)),
    ]
