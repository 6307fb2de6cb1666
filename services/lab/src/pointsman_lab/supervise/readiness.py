# SPDX-License-Identifier: Apache-2.0
"""Ways to ask a process whether it is ready, each one attempt that answers yes or no."""

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc.aio

from pointsman_lab.pki import Identity, channel_credentials

Check = Callable[[], Awaitable[bool]]
_ATTEMPT_SECONDS = 2.0
_SERVING = b"\x08\x01"  # HealthCheckResponse{status: SERVING}; two bytes need no generated stub


def grpc_health(target: str, identity: Identity) -> Check:
    """Whether grpc.health.v1 at HOST:PORT says SERVING for the whole server, to a caller with this certificate."""

    async def check() -> bool:
        async with grpc.aio.secure_channel(target, channel_credentials(identity)) as channel:
            method = channel.unary_unary(
                "/grpc.health.v1.Health/Check", request_serializer=bytes, response_deserializer=bytes
            )
            try:
                answer: bytes = await method(b"", timeout=_ATTEMPT_SECONDS, wait_for_ready=False)
            except grpc.aio.AioRpcError:
                return False
            return answer.startswith(_SERVING)

    return check


def http_ok(host: str, port: int, path: str, *, tls: ssl.SSLContext | None = None) -> Check:
    """Whether GET answers 200."""

    async def check() -> bool:
        request = f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode()
        answer = await _exchange(asyncio.open_connection(host, port, ssl=tls), request)
        return answer.startswith((b"HTTP/1.0 200", b"HTTP/1.1 200"))

    return check


def redis_ping(host: str, port: int, *, tls: ssl.SSLContext | None = None) -> Check:
    """Whether a Redis answers PING."""

    async def check() -> bool:
        return (await _exchange(asyncio.open_connection(host, port, ssl=tls), b"PING\r\n")).startswith(b"+PONG")

    return check


def unix_socket(path: Path) -> Check:
    """Whether somebody listens at a Unix socket."""

    async def check() -> bool:
        try:
            _, writer = await asyncio.open_unix_connection(str(path))
        except OSError:
            return False
        writer.close()
        return True

    return check


async def _exchange(opening: Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]], request: bytes) -> bytes:
    try:
        async with asyncio.timeout(_ATTEMPT_SECONDS):
            reader, writer = await opening
            try:
                writer.write(request)
                return await reader.readline()
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except OSError:
        return b""
