# SPDX-License-Identifier: Apache-2.0
"""A TCP relay that stops or delays bytes while its connections stay open, as a network does that drops packets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class TcpRelay:
    """Moves bytes both ways between whoever connects and one address."""

    def __init__(self, upstream: str) -> None:
        self._host, _, port = upstream.rpartition(":")
        self._port = int(port)
        self._flows = asyncio.Event()
        self._flows.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0
        """Made since the start."""
        self.delay_seconds = 0.0
        """That bytes take longer, each way."""
        self.address = ""

    def freeze(self) -> None:
        """From now on nothing arrives anywhere; new connections are taken, and hear nothing either."""
        self._flows.clear()

    def thaw(self) -> None:
        """Go on, with what was held back first."""
        self._flows.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection; for `asyncio.start_server`."""
        self.connections += 1
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            with contextlib.suppress(OSError):
                there_reader, there_writer = await asyncio.open_connection(self._host, self._port)
                await asyncio.gather(self._move(reader, there_writer), self._move(there_reader, writer))
        finally:
            writer.close()

    async def _move(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await asyncio.sleep(self.delay_seconds)
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()

    async def close(self) -> None:
        """End all connections."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def tcp_relay(upstream: str) -> AsyncIterator[TcpRelay]:
    """A relay on loopback."""
    relay = TcpRelay(upstream)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    relay.address = "127.0.0.1:{}".format(server.sockets[0].getsockname()[1])  # noqa: UP032 - reads better than nested quotes
    try:
        yield relay
    finally:
        server.close()
        await relay.close()
