# SPDX-License-Identifier: Apache-2.0
"""A redis-server of a test's own: started, stopped, frozen, emptied, filled."""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError

from pointsman_lab.supervise.redis import find_redis

_DEADLINE_SECONDS = 20.0


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisServer:
    """One process on one port, which it can leave and come back to."""

    def __init__(self, folder: Path, *options: str, port: int = 0) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.options = options
        self.command: Sequence[str] = ()
        """Instead of a plain server's."""
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def arguments(self) -> Sequence[str]:
        return ("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder), *self.options)

    async def start(self) -> None:
        """Start it and wait until it listens; it is empty, unless the options say otherwise."""
        self.process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
            self.command or [find_redis(), *self.arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        async with asyncio.timeout(_DEADLINE_SECONDS):
            while not self._listens():
                assert self.process.poll() is None, f"redis-server {' '.join(self.arguments)} ended"
                await asyncio.sleep(0.01)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(0.5)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """Kill it, frozen or not."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        """It keeps its connections and answers nothing."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)

    async def ask(self, *command: Any, **options: Any) -> Any:
        """One command on a connection of its own."""
        client = redis.asyncio.Redis(host="127.0.0.1", port=self.port, **options)
        try:
            return await client.execute_command(*command)  # type: ignore[no-untyped-call] # the library leaves it so
        finally:
            await client.aclose()

    async def answered(self, *command: Any, **options: Any) -> Any:
        """The answer, or None while there is none."""
        try:
            return await self.ask(*command, **options)
        except (RedisError, OSError):
            return None


@asynccontextmanager
async def redis_server(folder: Path, *options: str) -> AsyncIterator[RedisServer]:
    """A running one."""
    server = RedisServer(folder, *options)
    await server.start()
    try:
        yield server
    finally:
        server.stop()
