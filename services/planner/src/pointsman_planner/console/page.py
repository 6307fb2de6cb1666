# SPDX-License-Identifier: Apache-2.0
"""The console's HTTP side: files, questions, the stream; and who is let in.

It listens on loopback addresses alone, as plain HTTP: who can reach it is on the machine, or in the pod's network, or
was let through by the API server (`kubectl port-forward`). Browsers bring strangers' pages to loopback addresses too:
the Host header must name one (a rebound DNS name does not), and questions of other sites' pages are refused. There is
nothing to write: GET and HEAD are all that the server knows.
"""

from __future__ import annotations

import inspect
import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from http import HTTPStatus
from importlib import resources
from typing import Any, Final

import msgspec

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman.types.v1 import types_pb2
from pointsman_chassis.clock import Clock
from pointsman_chassis.errors import (
    ConfigError,
    NotFoundError,
    NotInSyncError,
    OverloadError,
    PeerError,
    PointsmanError,
)
from pointsman_chassis.http import Answer, Handler, HttpServer, Request, Response, Streamed
from pointsman_model.names import parse_address
from pointsman_planner.api.control_service import ControlService
from pointsman_planner.console.model import endpoints_view, explanation_view, node_view, services_view
from pointsman_planner.console.stream import Streams
from pointsman_planner.core.planner import Planner
from pointsman_planner.core.recent_changes import RecentChanges

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS: Final = (
    ("Content-Security-Policy", _POLICY),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)
_FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/console.css": ("console.css", "text/css; charset=utf-8"),
    "/console.js": ("console.js", "text/javascript; charset=utf-8"),
    "/nodes.js": ("nodes.js", "text/javascript; charset=utf-8"),
    "/answers.js": ("answers.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_STATUSES: Final[Mapping[type[PointsmanError], HTTPStatus]] = {
    NotFoundError: HTTPStatus.NOT_FOUND,
    PeerError: HTTPStatus.BAD_REQUEST,
    NotInSyncError: HTTPStatus.SERVICE_UNAVAILABLE,
    OverloadError: HTTPStatus.TOO_MANY_REQUESTS,
}
_TEXT_MAX: Final = 300
"""Characters of one field of a question."""
_CONNECTIONS_MAX: Final = 48


class Console:
    """The console of one planner."""

    def __init__(self, *, planner: Planner, control: ControlService, planner_id: str, clock: Clock) -> None:
        self._planner = planner
        self._control = control
        self._planner_id = planner_id
        recent = control.board.recent = RecentChanges()
        self._streams = Streams(board=control.board, recent=recent, head=self._head, clock=clock)
        routes: dict[str, Handler] = {path: _file(*what) for path, what in _FILES.items()}
        routes |= {
            "/api/stream": self._stream,
            "/api/node": _answering(self._node),
            "/api/services": _answering(self._services),
            "/api/endpoints": _answering(self._endpoints),
            "/api/explain": _answering(self._explain),
        }
        self._http = HttpServer(
            {path: _guarded(handler) for path, handler in routes.items()}, connections_max=_CONNECTIONS_MAX
        )

    async def listen(self, address: str) -> int:
        """Start serving; the port. Raises ConfigError when the address cannot be had."""
        host, _, port = address.rpartition(":")
        try:
            return await self._http.listen(host.strip("[]"), int(port))
        except (OSError, ValueError) as error:
            raise ConfigError(f"console.listenAddress {address}: {error}") from error

    async def close(self) -> None:
        """End; pages come back to the planner that is there next."""
        await self._http.close()

    def _head(self) -> dict[str, Any]:
        return {
            "planner": self._planner_id,
            "revision": self._planner.position.revision,
            "inSync": self._planner.is_in_sync,
            "services": len(self._planner.cluster.services),
        }

    def _stream(self, request: Request) -> Answer:
        token = request.headers.get("last-event-id", "")[:_TEXT_MAX]
        try:
            return Streamed(body=self._streams.open(token), content_type="text/event-stream", headers=HEADERS)
        except OverloadError as error:
            return _refusal(error)

    async def _node(self, query: Mapping[str, str]) -> dict[str, Any]:
        return node_view(await self._control.node(pb.GetNodeRequest(node_name=_text(query, "node"))))

    async def _services(self, query: Mapping[str, str]) -> list[str]:
        return services_view(self._planner.cluster.services, _text(query, "like"))

    async def _endpoints(self, query: Mapping[str, str]) -> dict[str, Any]:
        namespace, separator, name = _text(query, "service").partition("/")
        if not separator:
            raise PeerError("service: is written namespace/name")
        service = types_pb2.NamespacedName(namespace=namespace, name=name)
        request = pb.GetEndpointsRequest(service=service, node_name=_text(query, "node"))
        return endpoints_view(self._control.endpoints(request))

    async def _explain(self, query: Mapping[str, str]) -> dict[str, Any]:
        request = pb.ExplainPacketRequest(
            node_name=_text(query, "node"),
            source_address=_address(query, "source"),
            destination_address=_address(query, "destination"),
            destination_port=_port(query),
            protocol=_protocol(query),
        )
        return explanation_view(self._control.explain(request))


def _file(name: str, content_type: str) -> Handler:
    body = resources.files("pointsman_planner.console").joinpath("static", name).read_bytes()
    return lambda _: Response(body=body, content_type=content_type)


def _answering(ask: Callable[[Mapping[str, str]], Awaitable[Any]]) -> Handler:
    async def answer(request: Request) -> Response:
        try:
            found = await ask(request.query)
        except PointsmanError as error:
            return _refusal(error)
        return Response(body=msgspec.json.encode(found), content_type="application/json")

    return answer


def _refusal(error: PointsmanError) -> Response:
    status = _STATUSES.get(type(error), HTTPStatus.INTERNAL_SERVER_ERROR)
    return Response(status=status, body=msgspec.json.encode({"error": str(error)}), content_type="application/json")


def _guarded(handler: Handler) -> Handler:
    async def answer(request: Request) -> Answer:
        if not is_local_host(request.headers.get("host", "")):
            text = b"the console answers to localhost and loopback addresses alone (Host header)\n"
            return Response(status=HTTPStatus.MISDIRECTED_REQUEST, body=text, headers=HEADERS)
        is_question = request.path.startswith("/api/")
        if is_question and request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
            text = b"the console answers no page but its own\n"
            return Response(status=HTTPStatus.FORBIDDEN, body=text, headers=HEADERS)
        found = handler(request)
        made = await found if inspect.isawaitable(found) else found
        return made if isinstance(made, Streamed) else replace(made, headers=HEADERS)

    return answer


def is_local_host(host: str) -> bool:
    """Whether a Host header names this machine as such: `localhost` or a loopback address, with or without a port."""
    name, separator, port = host.rpartition(":")
    if not separator or port.endswith("]"):
        name = host
    elif not (port.isascii() and port.isdigit()):
        return False
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def _text(query: Mapping[str, str], name: str) -> str:
    text = query.get(name, "").strip()
    if len(text) > _TEXT_MAX:
        raise PeerError(f"{name}: is longer than {_TEXT_MAX} characters")
    return text


def _address(query: Mapping[str, str], name: str) -> bytes:
    text = _text(query, name)
    try:
        return parse_address(text)
    except ValueError as error:
        raise PeerError(f"{name}: {text!r} is not an IP address") from error


def _port(query: Mapping[str, str]) -> int:
    text = _text(query, "port")
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 1 << 16):
        raise PeerError(f"port: {text!r} is not within 1 and 65535")
    return int(text)


def _protocol(query: Mapping[str, str]) -> types_pb2.Protocol.ValueType:
    text = _text(query, "protocol").upper() or "TCP"
    try:
        return types_pb2.Protocol.Value(f"PROTOCOL_{text}")
    except ValueError as error:
        raise PeerError(f"protocol: {text!r} is not TCP, UDP or SCTP") from error
