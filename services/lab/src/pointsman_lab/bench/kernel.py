# SPDX-License-Identifier: Apache-2.0
"""The bench's ear at a node's kernel: instants at which nf_tables transactions were committed there."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import sys
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pointsman_lab.cluster import Cluster

_DOUBLE = struct.Struct("=d")
_RUN_SECONDS_MAX = 900.0
_START_SECONDS = 10.0


class KernelCommits:
    """The instants so far; `wait_after` waits for the first one past a moment."""

    def __init__(self) -> None:
        self.instants: list[float] = []
        self._arrived = asyncio.Event()

    async def wait_after(self, moment: float, *, timeout_seconds: float = 60.0) -> float:
        """The first commit after `moment`; TimeoutError when there is none in time."""
        async with asyncio.timeout(timeout_seconds):
            while not self.instants or self.instants[-1] <= moment:
                self._arrived.clear()
                await self._arrived.wait()
        return next(instant for instant in self.instants if instant > moment)

    async def read_from(self, reader: asyncio.StreamReader) -> None:
        """Collect instants until the stream ends."""
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                (instant,) = _DOUBLE.unpack(await reader.readexactly(_DOUBLE.size))
                self.instants.append(instant or time.monotonic())
                self._arrived.set()


@contextlib.asynccontextmanager
async def kernel_commits(
    cluster: Cluster, node: str, mode: Literal["events", "generation"]
) -> AsyncIterator[KernelCommits]:
    """Listen to a node's kernel as long as the body runs; see kernel_watch for the modes."""
    path = cluster.state.path / f"bench-{node}.sock"
    commits = KernelCommits()
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await commits.read_from(reader)

    server = await asyncio.start_unix_server(serve, path)
    command = [sys.executable, "-m", "pointsman_lab.bench.kernel_watch", str(path), mode]
    watching = asyncio.create_task(cluster.execute(node, command, timeout_seconds=_RUN_SECONDS_MAX))
    try:
        await commits.wait_after(0.0, timeout_seconds=_START_SECONDS)
        commits.instants.clear()
        yield commits
    finally:
        for writer in writers:  # the other end sees it and stops by itself
            writer.close()
        server.close()
        await watching
        path.unlink(missing_ok=True)
