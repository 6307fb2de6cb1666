# SPDX-License-Identifier: Apache-2.0
"""Remote calls over a Unix socket: one JSON object per line each way, answered in any order.

    -> {"id": 1, "method": "pods", "params": {...}}
    <- {"id": 1, "result": ...}   or   {"id": 1, "error": "what went wrong"}

A path name reaches across network namespaces, which is why the lab's processes talk this way to the host.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from pointsman_lab.errors import LabError, RemoteError

LINE_BYTES_MAX = 64 * 1024 * 1024
Method = Callable[..., Awaitable[Any]]


class RpcServer:
    """Serves named coroutine functions; parameters are passed by keyword."""

    def __init__(self, path: Path, methods: Mapping[str, Method]) -> None:
        """Takes where to listen and what to answer."""
        self._path = path
        self._methods = methods
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listens; only the owner of the path may connect."""
        self._server = await asyncio.start_unix_server(self._serve, path=self._path, limit=LINE_BYTES_MAX)
        self._path.chmod(0o600)

    async def stop(self) -> None:
        """Stops listening and drops running calls."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls: set[asyncio.Task[None]] = set()
        try:
            with contextlib.suppress(ConnectionError, asyncio.LimitOverrunError):
                while line := await reader.readline():
                    task = asyncio.create_task(self._answer(line, writer))
                    for owner in (self._tasks, calls):
                        owner.add(task)
                        task.add_done_callback(owner.discard)
        finally:
            for task in calls:
                task.cancel()
            writer.close()

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        call_id = None
        try:
            call = msgspec.json.decode(line)
            call_id = call["id"]
            method = self._methods.get(call["method"])
            if method is None:
                raise RemoteError(f"there is no method {call['method']!r}")
            reply = {"id": call_id, "result": await method(**call.get("params", {}))}
        except (LabError, OSError, LookupError, TypeError, ValueError, msgspec.MsgspecError) as error:
            reply = {"id": call_id, "error": f"{type(error).__name__}: {error}"}
        writer.write(msgspec.json.encode(reply) + b"\n")
        with contextlib.suppress(ConnectionError):
            await writer.drain()


class RpcClient:
    """Calls an RpcServer. One connection, any number of calls at once."""

    def __init__(self, path: Path) -> None:
        """Takes where the server listens; `connect` opens."""
        self._path = path
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reader_task: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Opens the connection.

        Raises:
            RemoteError: nobody listens there.
        """
        try:
            reader, self._writer = await asyncio.open_unix_connection(str(self._path), limit=LINE_BYTES_MAX)
        except OSError as error:
            raise RemoteError(f"no lab answers at {self._path}: {error}") from error
        self._reader_task = asyncio.create_task(self._read(reader))

    async def close(self) -> None:
        """Closes the connection; calls that wait fail."""
        if self._reader_task is not None:
            self._reader_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader_task
        if self._writer is not None:
            self._writer.close()

    async def call(self, method: str, **params: Any) -> Any:
        """Calls and waits for the answer.

        Raises:
            RemoteError: the server answered with an error, or is gone.
        """
        if self._writer is None or (self._reader_task is not None and self._reader_task.done()):
            raise RemoteError(f"{method}: not connected to {self._path}; the lab has ended")
        call_id = next(self._ids)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[call_id] = future
        try:
            self._writer.write(msgspec.json.encode({"id": call_id, "method": method, "params": params}) + b"\n")
            return await future
        finally:
            self._waiting.pop(call_id, None)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            with contextlib.suppress(ConnectionError):
                while line := await reader.readline():
                    self._resolve(msgspec.json.decode(line))
        finally:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(RemoteError(f"{self._path}: the lab has ended"))

    def _resolve(self, reply: dict[str, Any]) -> None:
        future = self._waiting.get(reply["id"])
        if future is None or future.done():
            return
        if "error" in reply:
            future.set_exception(RemoteError(reply["error"]))
        else:
            future.set_result(reply.get("result"))
