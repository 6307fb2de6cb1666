# SPDX-License-Identifier: Apache-2.0
"""What the page is told while it is open: server-sent events, the newest state of what changed and nothing else.

    event: state    id: TOKEN    data: {"reset": bool, "nodes": [[name, state], ...], "gone": [...], "changes": ...}

A message is made when the client has taken the one before it, from the keys that are dirty then (`core/watching.py`),
and holds only nodes whose state differs from what this client was told. So a slow reader costs a set of names, and
gets the newest state later; one that takes nothing for too long is cut off by the server. A browser that comes back
shows the token of the last message, and is told what changed since, if that is still known.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

import msgspec

from pointsman_chassis.clock import Clock
from pointsman_chassis.errors import OverloadError
from pointsman_model.cluster import ObjectKey
from pointsman_planner.api.node_board import NodeBoard, node_key
from pointsman_planner.console.model import STATES, change_view, percentiles_view
from pointsman_planner.core.recent_changes import RecentChanges
from pointsman_planner.core.watching import Reader

CLIENTS_MAX: Final = 16
NODES_PER_MESSAGE: Final = 1_000
_PAUSE_SECONDS: Final = 0.5
"""Between two messages to one client: what happens within it is one message."""
_LOOK_SECONDS: Final = 2.0
"""How often it is looked whether something changed where nobody tells."""
_SILENCE_SECONDS: Final = 10.0


class Streams:
    """All open pages."""

    def __init__(
        self, *, board: NodeBoard, recent: RecentChanges, head: Callable[[], dict[str, Any]], clock: Clock
    ) -> None:
        """`head` is what is said of the planner itself in each message."""
        self._board = board
        self._recent = recent
        self._head = head
        self._clock = clock
        self.clients = 0

    def open(self, token: str) -> AsyncGenerator[bytes, None]:
        """Everything, or what changed since `token`, then changes without end. Raises OverloadError."""
        if self.clients >= CLIENTS_MAX:
            raise OverloadError(f"{CLIENTS_MAX} pages are open at this planner; close one, or ask another planner")
        return self._follow(token)

    async def _follow(self, token: str) -> AsyncGenerator[bytes, None]:
        self.clients += 1
        woken = asyncio.Event()
        reader = self._board.node_log.open(token, map(node_key, sorted(self._board.names)), woken.set)
        try:
            client = _Client(self._board, self._recent, reader, self._head)
            yield b"retry: 2000\n\n"
            async for part in client.begin():
                yield part
            last = self._clock.monotonic()
            while not reader.is_overrun:
                await asyncio.sleep(_PAUSE_SECONDS)
                await self._wait(woken)
                await self._board.look_around()
                said = [part async for part in client.news()]
                now = self._clock.monotonic()
                if said:
                    last = now
                elif now - last > _SILENCE_SECONDS:
                    said, last = [b": nothing new\n\n"], now
                for part in said:
                    yield part
        finally:
            self.clients -= 1
            reader.close()

    async def _wait(self, woken: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                await woken.wait()
        except TimeoutError:
            return
        finally:
            woken.clear()


class _Client:
    """What one page has been told."""

    def __init__(
        self, board: NodeBoard, recent: RecentChanges, reader: Reader, head: Callable[[], dict[str, Any]]
    ) -> None:
        self._board = board
        self._recent = recent
        self._reader = reader
        self._head = head
        self._told: dict[str, int] = {}
        self._told_head: dict[str, Any] = {}
        self._version = 0

    async def begin(self) -> AsyncGenerator[bytes, None]:
        """The first messages: the first of them says whether the page forgets what it has."""
        keys, token = self._reader.take()
        is_first = not self._reader.is_resume
        for start in range(0, max(len(keys), 1), NODES_PER_MESSAGE):
            part = keys[start : start + NODES_PER_MESSAGE]
            is_last = start + NODES_PER_MESSAGE >= len(keys)
            yield await self._message(part, token if is_last else "", reset=is_first and start == 0)

    async def news(self) -> AsyncGenerator[bytes, None]:
        """What is new; nothing when there is nothing."""
        keys, token = self._reader.take()
        for start in range(0, max(len(keys), 1), NODES_PER_MESSAGE):
            message = await self._message(keys[start : start + NODES_PER_MESSAGE], token, is_needed=False)
            if message:
                yield message

    async def _message(
        self, keys: tuple[ObjectKey, ...] | Any, token: str, *, reset: bool = False, is_needed: bool = True
    ) -> bytes:
        names = [key.name for key in keys]
        there = [name for name in names if self._board.is_there(name)]
        statuses = await self._board.statuses(there)
        nodes = [[name, STATES[status.state]] for name, status in statuses.items() if self._is_new(name, status.state)]
        gone = [name for name in names if name not in statuses]
        for name in gone:
            self._told.pop(name, None)
        changes = self._recent.since(self._version)
        self._version = self._recent.version
        head = self._head()
        if not (is_needed or nodes or gone or changes or head != self._told_head):
            return b""
        self._told_head = head
        body = {"reset": reset, "nodes": nodes, "gone": gone, **head}
        body["changes"] = [change_view(change) for change in changes]
        body["latency"] = percentiles_view(self._recent.latency())
        identity = f"id: {token}\n" if token else ""
        return f"event: state\n{identity}data: ".encode() + msgspec.json.encode(body) + b"\n\n"

    def _is_new(self, name: str, state: int) -> bool:
        if self._told.get(name) == state:
            return False
        self._told[name] = state
        return True
