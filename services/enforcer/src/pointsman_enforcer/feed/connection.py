# SPDX-License-Identifier: Apache-2.0
"""One stream while it lives: moves messages between a gRPC call and a PlanSession."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc.aio

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_chassis.clock import Clock, Timer
from pointsman_enforcer.core.candidates import Redirect
from pointsman_enforcer.core.errors import PlanProtocolError
from pointsman_enforcer.core.plan_session import Action, Commit, GiveUp, PlanSession, Redirected, Remember, Send
from pointsman_model.remembered import RememberedClient

OUTBOX_MAX: Final = 1024
"""Messages that may wait for a planner that does not read; then the stream is ended, and the next one catches up."""
_TICK_SECONDS_MIN: Final = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionEvents:
    """What the owner of a connection wants to hear. All are called on the loop and must be quick."""

    committed: Callable[[Connection, Commit], None]
    welcomed: Callable[[Connection], None]
    redirected: Callable[[Connection, Redirect], None]
    candidates: Callable[[Connection], None]
    """The planner told of others than before."""
    remember: Callable[[Sequence[RememberedClient]], None]
    resync: Callable[[], None]
    overflow: Callable[[], None]


class Connection:
    """One stream; its identity names it in reports."""

    def __init__(self, number: int, call: Any, session: PlanSession, events: ConnectionEvents, clock: Clock) -> None:
        self.number = number
        self.session = session
        self._call = call
        self._events = events
        self._clock = clock
        self._outbox: list[pb.StreamNodePlanRequest] = []
        self._wake = asyncio.Event()
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._timer: Timer | None = None

    async def serve(self) -> None:
        """Run the stream to its end; raises what ended it."""
        self._schedule_tick()
        self.perform(self.session.open(self._clock.monotonic()))
        tasks = [asyncio.create_task(work) for work in (self._read(), self._write())]
        try:
            done, _ = await asyncio.wait([*tasks, self._failure], return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
        finally:
            if self._timer is not None:
                self._timer.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._failure.cancel()
            self._call.cancel()

    def perform(self, actions: Sequence[Action]) -> None:
        """Do what the session says: queue messages, hand over transactions and redirects."""
        for action in actions:
            if isinstance(action, Send):
                if action.message.HasField("resync"):
                    self._events.resync()
                self._outbox.append(action.message)
            elif isinstance(action, Redirected):
                self._events.redirected(self, action.redirect)
            elif isinstance(action, GiveUp):
                self._fail(action.error)
            elif isinstance(action, Remember):
                self._events.remember(action.clients)
            else:
                self._events.committed(self, action)
        if len(self._outbox) > OUTBOX_MAX and not self._failure.done():
            # The writer waits for the planner: it cannot be the one that notices.
            self._events.overflow()
            self._fail(PlanProtocolError(f"the planner has not read {OUTBOX_MAX} messages"))
        if self._outbox:
            self._wake.set()

    def confirm(self) -> None:
        """No other stream is left; see `PlanSession.confirm`."""
        try:
            self.perform(self.session.confirm(self._clock.monotonic()))
        except PlanProtocolError as error:
            self._fail(error)

    async def _read(self) -> None:
        async for message in _messages(self._call):
            self.perform(self.session.receive(message, self._clock.monotonic()))
            if message.HasField("welcome"):
                self._schedule_tick()
                self._events.welcomed(self)
            elif message.heartbeat.candidates:
                self._events.candidates(self)

    async def _write(self) -> None:
        """Send what is queued, for ever: a call that is over takes no more, and the reader tells how it ended."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._outbox and not self._call.done():
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
            self._fail(error)
            return
        self._schedule_tick()

    def _fail(self, error: PlanProtocolError) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)


async def _messages(call: Any) -> AsyncIterator[pb.StreamNodePlanResponse]:
    """The messages of a call until it ends; AioRpcError when it ended badly."""
    while True:
        message = await call.read()
        if message is grpc.aio.EOF:
            return
        yield message
