# SPDX-License-Identifier: Apache-2.0
"""A small HTTP/1.1 server for `/metrics`, `/healthz`, a console: GET and HEAD, one request per connection.

It is reachable by anything on the network, so everything is bounded: connections, header bytes, the time to send a
request and the time to take the answer. A client that is slow on purpose costs one slot for a few seconds.
"""

import asyncio
import contextlib
import inspect
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

import structlog

from pointsman_chassis.metrics import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a handler may look at."""

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in lower case; of a repeated header the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What a handler answers."""

    body: bytes
    status: int = 200
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamed:
    """An answer whose end is not known yet: it goes on until `body` ends or the client goes away."""

    body: AsyncGenerator[bytes, None]
    """Asked for its next part when the client has taken nearly all before it."""
    content_type: str
    headers: tuple[tuple[str, str], ...] = ()


Answer = Response | Streamed
Handler = Callable[[Request], Answer | Awaitable[Answer]]

_HEADER_BYTES_MAX: Final = 8 << 10


class HttpServer:
    """Serves a fixed table of exact paths on any number of addresses."""

    def __init__(
        self,
        routes: Mapping[str, Handler],
        *,
        fallback: Handler | None = None,
        connections_max: int = 64,
        request_timeout_seconds: float = 5.0,
        response_timeout_seconds: float = 10.0,
    ) -> None:
        """`fallback` answers every path without a route; without it that is 404."""
        self._routes = dict(routes)
        self._fallback = fallback
        self._connections_max = connections_max
        self._request_timeout = request_timeout_seconds
        self._response_timeout = response_timeout_seconds
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()
        self._silent: dict[asyncio.Task[None], None] = {}
        """Connections that have not sent their request yet, oldest first."""

    async def listen(self, host: str, port: int) -> int:
        """Start serving on one more address and return its port (of interest when `port` is 0). Raises OSError."""
        server = await asyncio.start_server(self._accept, host, port, limit=_HEADER_BYTES_MAX)
        self._servers.append(server)
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    async def serve(self, listener: socket.socket) -> None:
        """Start serving on a socket that is bound; it is closed with this server."""
        self._servers.append(await asyncio.start_server(self._accept, sock=listener, limit=_HEADER_BYTES_MAX))

    async def close(self) -> None:
        """Stop listening and drop what is in progress. May be called twice."""
        await self._stop_accepting()
        for server in self._servers:
            server.close()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._servers.clear()

    async def _stop_accepting(self) -> None:
        """Accept nobody more, and let whoever was accepted have a transport.

        An asyncio server (CPython 3.11) that closes between accept(2) and the transport's first turn loses the
        connection without closing it, and the client waits for ever.
        """
        loop = asyncio.get_running_loop()
        for server in self._servers:
            for listener in server.sockets:
                with contextlib.suppress(RuntimeError):
                    loop.remove_reader(listener.fileno())
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or not self._has_room():
            writer.transport.abort()
            return
        self._connections.add(task)
        self._silent[task] = None
        try:
            await self._serve(reader, writer)
        except (OSError, TimeoutError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._connections.discard(task)
            self._silent.pop(task, None)
            writer.close()

    def _has_room(self) -> bool:
        """Whether one more connection is served; whoever has been silent for longest makes room for it.

        Else anybody who opens connections and says nothing would keep out the load balancer that asks for health.
        """
        if len(self._connections) < self._connections_max:
            return True
        oldest = next(iter(self._silent), None)
        if oldest is None:
            return False
        del self._silent[oldest]
        self._connections.discard(oldest)
        oldest.cancel()
        return True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        response: Answer
        try:
            async with asyncio.timeout(self._request_timeout):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return
        except asyncio.LimitOverrunError:
            method, response = "GET", _plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        else:
            self._heard()
            async with asyncio.timeout(self._response_timeout):
                method, response = await self._answer(head)
        if isinstance(response, Streamed):
            await self._stream(method, response, reader, writer)
            return
        writer.write(_encode(response, with_body=method != "HEAD"))
        async with asyncio.timeout(self._response_timeout):
            await writer.drain()

    async def _stream(
        self, method: str, answer: Streamed, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Send until the end. A client that says more, or hangs up, or takes nothing for too long, is gone."""
        writer.write(_head(HTTPStatus.OK, answer.content_type, answer.headers))
        async with contextlib.aclosing(answer.body):
            if method == "HEAD":
                return
            sending = asyncio.create_task(self._send_parts(answer, writer))
            leaving = asyncio.create_task(reader.read(1))
            try:
                await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            finally:
                sending.cancel()
                leaving.cancel()
                await asyncio.gather(sending, leaving, return_exceptions=True)
        if not sending.cancelled() and sending.exception() is not None:
            writer.transport.abort()

    async def _send_parts(self, answer: Streamed, writer: asyncio.StreamWriter) -> None:
        async for part in answer.body:
            writer.write(part)
            async with asyncio.timeout(self._response_timeout):
                await writer.drain()

    def _heard(self) -> None:
        """The connection of this task has sent its request: from here on it is kept."""
        task = asyncio.current_task()
        if task is not None:
            self._silent.pop(task, None)

    async def _answer(self, head: bytes) -> tuple[str, Answer]:
        parsed = _parse(head)
        if parsed is None:
            return "GET", _plain(HTTPStatus.BAD_REQUEST)
        method, request = parsed
        handler = self._routes.get(request.path, self._fallback)
        if handler is None:
            return method, _plain(HTTPStatus.NOT_FOUND)
        if method not in {"GET", "HEAD"}:
            return method, _plain(HTTPStatus.METHOD_NOT_ALLOWED, headers=(("Allow", "GET, HEAD"),))
        try:
            answer = handler(request)
            return method, await answer if inspect.isawaitable(answer) else answer
        except Exception:  # noqa: BLE001 - a boundary: one broken page must not end the process that serves it
            structlog.get_logger("http").exception("handler failed", path=request.path)
            return method, _plain(HTTPStatus.INTERNAL_SERVER_ERROR)


def metrics_handler(registry: Registry) -> Handler:
    """The handler of `/metrics`."""

    def handle(request: Request) -> Response:
        content_type, body = registry.render(request.headers.get("accept", ""))
        return Response(body=body, content_type=content_type)

    return handle


def _parse(head: bytes) -> tuple[str, Request] | None:
    """Method and request, or None for anything that is not HTTP/1.x."""
    request_line, *lines = head.decode("latin-1").split("\r\n")
    parts = request_line.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        return None
    headers: dict[str, str] = {}
    for line in lines[:-2]:
        name, separator, value = line.partition(":")
        if not separator or not name or name != name.strip():
            return None
        headers[name.lower()] = value.strip()
    target = _split(parts[1])
    if target is None:
        return None
    return parts[0], Request(path=target.path, query=dict(parse_qsl(target.query)), headers=headers)


def _split(target: str) -> SplitResult | None:
    try:
        return urlsplit(target)
    except ValueError:
        return None


def _plain(status: HTTPStatus, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    return Response(status=status, body=f"{status.phrase}\n".encode(), headers=headers)


def _encode(response: Response, *, with_body: bool) -> bytes:
    headers = (("Content-Length", str(len(response.body))), *response.headers)
    return _head(response.status, response.content_type, headers) + (response.body if with_body else b"")


def _head(status: int, content_type: str, headers: tuple[tuple[str, str], ...]) -> bytes:
    lines = [
        f"HTTP/1.1 {int(status)} {HTTPStatus(status).phrase}",
        f"Content-Type: {content_type}",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
        *(f"{name}: {value}" for name, value in headers),
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
