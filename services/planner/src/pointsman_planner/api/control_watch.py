# SPDX-License-Identifier: Apache-2.0
"""The three watches of ControlService: one way to stream, and for each kind of thing what it is about.

    opened, changes..., synced, then (changes | heartbeat)...

What is sent is built when the transport takes it, from the keys that are dirty then. gRPC's flow control makes a slow
reader slow, and meanwhile only keys gather (`core/watching.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman_chassis.clock import Clock
from pointsman_chassis.errors import SlowConsumerError, UnavailableError
from pointsman_model.cluster import ClusterPosition, ObjectKey
from pointsman_model.wire.positions import position_to_pb
from pointsman_planner.core.watching import ChangeLog, Reader
from pointsman_planner.metrics import ControlMetrics

WATCHES_MAX: Final = 256
_ITEMS_PER_MESSAGE: Final = 200
_MESSAGE_BYTES: Final = 768 << 10
"""A message is sent when it is about so large; a single thing may be larger."""
_LOOK_SECONDS: Final = 1.0
"""How often a watch looks whether what it is about changed where nobody tells."""


class Built(NamedTuple):
    """What became of some keys."""

    updates: Sequence[Any]
    """Messages of those that are there and selected."""
    removals: Sequence[ObjectKey]
    """Those that are not."""


class Scope(Protocol):
    """What one watch is about, and how it says so."""

    @property
    def log(self) -> ChangeLog:
        """Where changes are told."""

    def everything(self) -> Iterable[ObjectKey]:
        """Keys of all there is now."""

    def concerned(self, keys: Iterable[ObjectKey]) -> Sequence[ObjectKey]:
        """Of changed keys, those that this watch must say something about."""

    async def build(self, keys: Sequence[ObjectKey]) -> Built:
        """The newest state of some keys."""

    async def look_around(self) -> None:
        """Notice changes that nobody tells."""

    def response(self, **parts: Any) -> Any:
        """A message of the stream from its one field."""

    def changes(self, built: Built) -> Any:
        """The `changes` field."""


class Watches:
    """Serves watches of one planner."""

    def __init__(self, *, planner_id: str, heartbeat_seconds: float, clock: Clock, metrics: ControlMetrics) -> None:
        self._planner_id = planner_id
        self._heartbeat_seconds = heartbeat_seconds
        self._clock = clock
        self._metrics = metrics
        self._open: set[asyncio.Event] = set()
        self._is_closed = False

    def close(self) -> None:
        """This planner is going away: every watch ends, and its client comes to another one."""
        self._is_closed = True
        for wake in self._open:
            wake.set()

    def watch(self, scope: Scope, token: str, position: _PositionSource) -> AsyncIterator[Any]:
        """The messages of one watch, for ever.

        Raises:
            UnavailableError: this planner is going away.
            SlowConsumerError: there are too many watches, or too many names came and went while this one stood still.
        """
        return _Watch(self, scope, position).run(token)

    def opened(self, *, is_resume: bool) -> pb.WatchOpened:
        """The first message."""
        start = pb.WatchOpened.START_RESUME if is_resume else pb.WatchOpened.START_SNAPSHOT
        message = pb.WatchOpened(start=start, planner_id=self._planner_id)
        message.heartbeat_interval.FromNanoseconds(round(self._heartbeat_seconds * 1e9))
        return message

    def enter(self) -> asyncio.Event:
        """A place for one more watch; the event wakes it."""
        self.check_open()
        if len(self._open) >= WATCHES_MAX:
            self._metrics.refused.labels("too_many").inc()
            raise SlowConsumerError(
                f"this planner serves {WATCHES_MAX} watches, as many as it may; ask another planner"
            )
        wake = asyncio.Event()
        self._open.add(wake)
        self._metrics.watches.set(len(self._open))
        return wake

    def leave(self, wake: asyncio.Event) -> None:
        """A watch is over."""
        self._open.discard(wake)
        self._metrics.watches.set(len(self._open))

    def check_open(self) -> None:
        """Raises UnavailableError once this planner is going away."""
        if self._is_closed:
            raise UnavailableError("this planner is going away; watch at another one, with the same resume token")

    def count_too_slow(self) -> None:
        """A watch ends because its reader stood still while too much came and went."""
        self._metrics.refused.labels("too_slow").inc()

    @property
    def heartbeat_seconds(self) -> float:
        """Longest silence of a watch."""
        return self._heartbeat_seconds

    @property
    def clock(self) -> Clock:
        """The time."""
        return self._clock


class _PositionSource(Protocol):
    @property
    def position(self) -> ClusterPosition:
        """What the planner holds now."""


class _Watch:
    """One watch."""

    def __init__(self, watches: Watches, scope: Scope, source: _PositionSource) -> None:
        self._watches = watches
        self._scope = scope
        self._source = source
        self._absent: set[ObjectKey] = set()
        """What the client knows not to be there, or not to be selected: it is not told again."""

    async def run(self, token: str) -> AsyncIterator[Any]:
        wake = self._watches.enter()
        reader = self._scope.log.open(token, self._scope.everything(), wake.set)
        try:
            yield self._scope.response(opened=self._watches.opened(is_resume=reader.is_resume))
            position = self._source.position
            taken = reader.take()
            async for changes in self._changes(self._scope.concerned(taken.keys), is_snapshot=not reader.is_resume):
                yield self._scope.response(changes=changes)
            synced = pb.WatchSynced(resume_token=taken.token, position=position_to_pb(position))
            yield self._scope.response(synced=synced)
            async for message in self._live(reader, wake):
                yield message
        finally:
            reader.close()
            self._watches.leave(wake)

    async def _live(self, reader: Reader, wake: asyncio.Event) -> AsyncIterator[Any]:
        clock, heartbeat_seconds = self._watches.clock, self._watches.heartbeat_seconds
        sent_at = clock.monotonic()
        while True:
            self._watches.check_open()
            if reader.is_overrun:
                self._watches.count_too_slow()
                raise SlowConsumerError("more changed things than can be remembered wait for this reader; watch anew")
            wake.clear()
            position, taken = self._source.position, reader.take()
            held: Any = None
            async for changes in self._changes(self._scope.concerned(taken.keys)):
                if held is not None:
                    yield self._scope.response(changes=held)
                held = changes
            if held is not None:
                held.resume_token = taken.token
                held.position.CopyFrom(position_to_pb(position))
                yield self._scope.response(changes=held)
                sent_at = clock.monotonic()
            elif clock.monotonic() - sent_at >= heartbeat_seconds:
                yield self._scope.response(heartbeat=self._heartbeat(taken.token, position))
                sent_at = clock.monotonic()
            await self._wait(wake, sent_at + heartbeat_seconds - clock.monotonic())

    async def _wait(self, wake: asyncio.Event, seconds: float) -> None:
        """Until something may have changed, a heartbeat is due, or it is time to look around."""
        try:
            async with asyncio.timeout(min(max(seconds, 0.0), _LOOK_SECONDS)):
                await wake.wait()
        except TimeoutError:
            await self._scope.look_around()

    async def _changes(self, keys: Sequence[ObjectKey], *, is_snapshot: bool = False) -> AsyncIterator[Any]:
        """The newest state of some keys in messages of bounded size, none when there is nothing to say.

        A snapshot says by itself what is not there.
        """
        updates: list[Any] = []
        removals: list[ObjectKey] = []
        size = 0
        for start in range(0, len(keys), _ITEMS_PER_MESSAGE):
            chunk = keys[start : start + _ITEMS_PER_MESSAGE]
            built = await self._scope.build(chunk)
            if not is_snapshot:
                removals += [key for key in built.removals if key not in self._absent]
            self._absent.difference_update(chunk)
            self._absent.update(built.removals)
            for update in built.updates:
                if updates and size + update.ByteSize() > _MESSAGE_BYTES:
                    yield self._scope.changes(Built(updates, removals))
                    updates, removals, size = [], [], 0
                updates.append(update)
                size += update.ByteSize()
            if len(updates) + len(removals) >= _ITEMS_PER_MESSAGE:
                yield self._scope.changes(Built(updates, removals))
                updates, removals, size = [], [], 0
        if updates or removals:
            yield self._scope.changes(Built(updates, removals))

    def _heartbeat(self, token: str, position: ClusterPosition) -> pb.WatchHeartbeat:
        message = pb.WatchHeartbeat(resume_token=token, position=position_to_pb(position))
        message.sent_at.FromNanoseconds(self._watches.clock.wall_ns())
        return message
