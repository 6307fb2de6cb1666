# SPDX-License-Identifier: Apache-2.0
"""The client of StreamNodePlan: moves bytes between a planner and a PlanSession, and dials again for ever.

Losing the stream removes nothing and forgets nothing: the plan held is the next stream's starting point. With several
planners, nodes begin at different ones (by a hash of the node's name) and go on to the next when one fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

import grpc
import grpc.aio
import structlog

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman.plan.v1 import plan_service_pb2_grpc as pb_grpc
from pointsman_chassis.backoff import Backoff
from pointsman_chassis.clock import Clock, Timer
from pointsman_enforcer.core.conditions import ServiceConditions
from pointsman_enforcer.core.errors import PlanProtocolError
from pointsman_enforcer.core.plan_session import Action, Commit, PlanSession, Programmed, Send
from pointsman_enforcer.core.plan_store import PlanStore

OUTBOX_MAX: Final = 1024
"""Messages that may wait for a planner that does not read; then the stream is ended, and the next one catches up."""
_HEALTHY_SECONDS: Final = 10.0
"""A stream that lived this long resets the backoff, even if it never came in sync."""
_TICK_SECONDS_MIN: Final = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEvents:
    """What the owner wants to hear. All are called on the loop and must be quick."""

    committed: Callable[[Commit, object, float, int], None]
    """A transaction: with the stream, and when it came (monotonic seconds, wall clock nanoseconds)."""
    connected: Callable[[bool], None]
    """A stream came in sync, or the one that was ended."""
    resync: Callable[[], None]
    overflow: Callable[[], None]


def dial_order(addresses: Sequence[str], node: str) -> tuple[str, ...]:
    """The addresses in the order in which a node tries them: its own, and the same after each restart."""
    return tuple(sorted(addresses, key=lambda each: blake2b(f"{node}\0{each}".encode(), digest_size=8).digest()))


class PlanStream:
    """Keeps one stream to one of several planners."""

    def __init__(
        self,
        *,
        addresses: Sequence[str],
        open_channel: Callable[[str], grpc.aio.Channel],
        make_hello: Callable[[], pb.Hello],
        store: PlanStore,
        events: StreamEvents,
        clock: Clock,
        conditions: ServiceConditions | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self._addresses = tuple(addresses)
        self._open_channel = open_channel
        self._make_hello = make_hello
        self._store = store
        self._events = events
        self._clock = clock
        self._conditions = conditions
        self._backoff = backoff or Backoff(initial_seconds=0.1, maximum_seconds=10.0)
        self._connection: _Connection | None = None

    @property
    def planner_id(self) -> str:
        """The planner of the present stream, empty when there is none."""
        return self._connection.session.planner_id if self._connection is not None else ""

    @property
    def is_in_sync(self) -> bool:
        """Whether the present stream has brought the whole plan."""
        return self._connection is not None and self._connection.session.is_in_sync

    async def run(self) -> None:
        """Stream until cancelled."""
        attempt = 0
        while True:
            address = self._addresses[attempt % len(self._addresses)]
            started = self._clock.monotonic()
            log = structlog.get_logger("plan-stream")
            try:
                await self._stream(address)
                reason = "the planner ended the stream"
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name}: {error.details()}"
            except PlanProtocolError as error:
                reason = str(error)
            was_in_sync = self.is_in_sync
            self._connection = None
            self._events.connected(False)
            if was_in_sync or self._clock.monotonic() - started > _HEALTHY_SECONDS:
                self._backoff.reset()
            else:
                attempt += 1
            delay = self._backoff.next_seconds()
            log.warning("no plan stream; keeping what is programmed", planner=address, reason=reason, retry_in=delay)
            await self._clock.sleep(delay)

    def report(self, stream: object, programmed: Programmed) -> None:
        """Send what the kernel has; of a transaction only to the stream that brought it, `stream` None to any."""
        connection = self._connection
        if connection is None or (stream is not None and stream is not connection):
            return
        if stream is None and not connection.session.is_in_sync:
            return
        connection.perform(connection.session.programmed(programmed, self._clock.monotonic()))

    def tell_conditions(self) -> None:
        """Send the conditions, which have changed; a stream that opens later tells of them by itself."""
        if self._connection is not None:
            self._connection.perform(self._connection.session.tell_conditions(self._clock.monotonic()))

    async def _stream(self, address: str) -> None:
        channel = self._open_channel(address)
        try:
            call = pb_grpc.PlanServiceStub(channel).StreamNodePlan()
            now = self._clock.monotonic()
            session = PlanSession(hello=self._make_hello(), store=self._store, now=now, conditions=self._conditions)
            connection = self._connection = _Connection(call, session, self._events, self._clock)
            await connection.serve()
        finally:
            await channel.close()


class _Connection:
    """One stream while it lives; its identity names it in reports."""

    def __init__(self, call: Any, session: PlanSession, events: StreamEvents, clock: Clock) -> None:
        self._call = call
        self.session = session
        self._events = events
        self._clock = clock
        self._outbox: list[pb.StreamNodePlanRequest] = []
        self._wake = asyncio.Event()
        self._silence: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._timer: Timer | None = None

    async def serve(self) -> None:
        """Run the stream to its end; raises what ended it."""
        self._schedule_tick()
        self.perform(self.session.open(self._clock.monotonic()))
        tasks = [asyncio.create_task(work) for work in (self._read(), self._write())]
        try:
            done, _ = await asyncio.wait([*tasks, self._silence], return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
        finally:
            if self._timer is not None:
                self._timer.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._silence.cancel()
            self._call.cancel()

    def perform(self, actions: Sequence[Action]) -> None:
        """Do what the session says: queue messages, hand over transactions."""
        for action in actions:
            if isinstance(action, Send):
                if action.message.HasField("resync"):
                    self._events.resync()
                self._outbox.append(action.message)
            else:
                self._events.committed(action, self, self._clock.monotonic(), self._clock.wall_ns())
                if action.in_sync:
                    self._events.connected(True)
        if self._outbox:
            self._wake.set()

    async def _read(self) -> None:
        async for message in _messages(self._call):
            self.perform(self.session.receive(message, self._clock.monotonic()))
            if message.HasField("welcome"):
                self._schedule_tick()

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._outbox:
                if len(self._outbox) > OUTBOX_MAX:
                    self._events.overflow()
                    raise PlanProtocolError(f"the planner has not read {OUTBOX_MAX} messages")
                await self._call.write(self._outbox.pop(0))

    def _schedule_tick(self) -> None:
        """Look at the session again when it wants to be; the welcome changes when that is."""
        if self._timer is not None:
            self._timer.cancel()
        delay = max(self.session.next_tick() - self._clock.monotonic(), _TICK_SECONDS_MIN)
        self._timer = self._clock.call_later(delay, self._tick)

    def _tick(self) -> None:
        try:
            self.perform(self.session.tick(self._clock.monotonic()))
        except PlanProtocolError as error:
            if not self._silence.done():
                self._silence.set_exception(error)
            return
        self._schedule_tick()


async def _messages(call: Any) -> AsyncIterator[pb.StreamNodePlanResponse]:
    """The messages of a call until it ends; AioRpcError when it ended badly."""
    while True:
        message = await call.read()
        if message is grpc.aio.EOF:
            return
        yield message
