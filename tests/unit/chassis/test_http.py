# SPDX-License-Identifier: Apache-2.0
"""The HTTP server over real sockets, with polite clients and others."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pointsman_chassis.http import Handler, HttpServer, Request, Response, metrics_handler
from pointsman_chassis.metrics import Registry


def hello(request: Request) -> Response:
    return Response(body=f"hello {request.query.get('name', 'you')}".encode())


async def slowly(request: Request) -> Response:
    await asyncio.sleep(0)
    return Response(status=503, body=b"{}", content_type="application/json", headers=(("X-Load", "1"),))


def broken(request: Request) -> Response:
    raise RuntimeError("secret detail")


async def stuck(request: Request) -> Response:
    await asyncio.Event().wait()
    raise AssertionError


ROUTES: dict[str, Handler] = {"/hello": hello, "/slow": slowly, "/broken": broken, "/stuck": stuck}


@asynccontextmanager
async def serving(
    *, connections_max: int = 64, request_timeout: float = 10, response_timeout: float = 10
) -> AsyncIterator[int]:
    server = HttpServer(
        ROUTES,
        connections_max=connections_max,
        request_timeout_seconds=request_timeout,
        response_timeout_seconds=response_timeout,
    )
    port = await server.listen("127.0.0.1", 0)
    try:
        yield port
    finally:
        await server.close()


async def exchange(port: int, request: bytes) -> bytes:
    """Send bytes, read until the server closes; empty when it reset the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(30):
            writer.write(request)
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


async def test_a_page_is_served_with_its_length() -> None:
    async with serving() as port:
        answer = await exchange(port, get("/hello?name=me"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Length: 8\r\n" in head + b"\r\n"
    assert body == b"hello me"


async def test_head_has_no_body() -> None:
    async with serving() as port:
        answer = await exchange(port, get("/hello", "HEAD"))
    assert b"Content-Length: 9" in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_a_coroutine_may_answer_with_status_type_and_headers() -> None:
    async with serving() as port:
        answer = await exchange(port, get("/slow"))
    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"Content-Type: application/json\r\n" in answer
    assert b"X-Load: 1\r\n" in answer


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (get("/absent"), b"404"),
        (get("/hello", "POST"), b"405"),
        (b"\x16\x03\x01\r\n\r\n", b"400"),
        (b"GET /hello SPDY/3\r\n\r\n", b"400"),
        (b"GET /hello HTTP/1.1\r\nno colon\r\n\r\n", b"400"),
        (b"GET http://[bad HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /hello HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", b"431"),
    ],
    ids=["unknown path", "method", "binary", "protocol", "header", "target", "too large"],
)
async def test_a_bad_request_gets_its_status(request_bytes: bytes, status: bytes) -> None:
    async with serving() as port:
        answer = await exchange(port, request_bytes)
    assert answer.split(b" ")[1] == status


async def test_a_handler_that_fails_reveals_nothing_and_the_next_request_works() -> None:
    async with serving() as port:
        answer = await exchange(port, get("/broken"))
        assert answer.split(b" ")[1] == b"500"
        assert b"secret" not in answer
        assert b"hello" in await exchange(port, get("/hello"))


async def test_a_client_that_never_finishes_its_request_is_dropped() -> None:
    async with serving(request_timeout=0.05) as port:
        assert await exchange(port, b"GET /hello HTTP/1.1\r\n") == b""


async def test_a_handler_that_never_answers_is_dropped() -> None:
    async with serving(response_timeout=0.05) as port:
        assert await exchange(port, get("/stuck")) == b""


class Gate:
    """A handler that says when it was entered and answers once it is opened."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self, request: Request) -> Response:
        self.entered.set()
        await self.opened.wait()
        return Response(body=b"through")


async def test_a_connection_beyond_the_limit_is_refused_and_the_slot_comes_back() -> None:
    gate = Gate()
    server = HttpServer({"/gate": gate}, connections_max=1)
    port = await server.listen("127.0.0.1", 0)
    async with asyncio.timeout(30):
        first = asyncio.create_task(exchange(port, get("/gate")))
        await gate.entered.wait()
        assert await exchange(port, get("/gate")) == b""
        gate.opened.set()
        assert b"through" in await first
        assert b"through" in await exchange(port, get("/gate"))
        await server.close()


async def test_connections_that_say_nothing_make_room_and_requests_in_progress_do_not() -> None:
    gate = Gate()
    server = HttpServer({"/gate": gate, "/hello": lambda _: Response(body=b"hello")}, connections_max=3)
    port = await server.listen("127.0.0.1", 0)
    asked = asyncio.create_task(exchange(port, get("/gate")))
    await gate.entered.wait()
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
    assert b"hello" in await exchange(port, get("/hello"))
    for reader, writer in silent[:2]:
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b"", "the ones that waited longest were dropped"
        writer.close()
    gate.opened.set()
    assert b"200" in await asked
    for _, writer in silent:
        writer.close()
    await server.close()


async def test_closing_drops_requests_in_progress_and_stops_listening() -> None:
    gate = Gate()
    server = HttpServer({"/gate": gate})
    port = await server.listen("127.0.0.1", 0)
    async with asyncio.timeout(30):
        first = asyncio.create_task(exchange(port, get("/gate")))
        await gate.entered.wait()
        await server.close()
        assert await first == b""
    with pytest.raises(ConnectionError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_the_metrics_page_shows_the_registry() -> None:
    registry = Registry(process=False)
    registry.gauge("pointsman_streams", "Streams.").set(3)
    server = HttpServer({"/metrics": metrics_handler(registry)})
    port = await server.listen("127.0.0.1", 0)
    answer = await exchange(port, get("/metrics"))
    await server.close()
    assert b"pointsman_streams 3.0" in answer


async def test_a_server_may_answer_every_path_on_a_socket_it_is_given() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = HttpServer({"/hello": hello}, fallback=slowly)
    await server.serve(listener)
    try:
        assert b"hello you" in await exchange(port, b"GET /hello HTTP/1.1\r\n\r\n")
        assert b"X-Load: 1" in await exchange(port, b"GET /anything/else?x=1 HTTP/1.1\r\n\r\n")
    finally:
        await server.close()
    assert listener.fileno() == -1
