# SPDX-License-Identifier: Apache-2.0
"""One open StreamNodePlan: moves the bytes of its session, and knows why it must end.

The handler of the call writes: it waits to be woken, then writes whatever the session wants to send, one part at a
time, so flow control of a slow node holds up only that node. A reader hands on what comes. Whatever else is to be said
(`send`) goes between transactions, never into one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc.aio

from pointsman_chassis.clock import Clock
from pointsman_chassis.errors import PeerError, PointsmanError, UnavailableError
from pointsman_model.wire import WireError
from pointsman_planner.api.change_spans import ChangeSpans
from pointsman_planner.core.messages import ProtocolViolationError
from pointsman_planner.core.node_session import NodeSession
from pointsman_planner.core.ownership import Member
from pointsman_planner.metrics import PlannerMetrics

NOTICES_MAX = 64
"""Messages beside transactions that wait to be written."""

Context = Any
"""grpc.aio's servicer context; its class is not public."""


class PlanStream:
    """A session and the call that carries it."""

    def __init__(
        self, session: NodeSession, context: Context, *, clock: Clock, metrics: PlannerMetrics, spans: ChangeSpans
    ) -> None:
        self.session = session
        self.failure: PointsmanError | None = None
        self.opened_at = self.heard_at = self.sent_at = clock.monotonic()
        self.redirected_at: float | None = None
        """When the node was last sent elsewhere."""
        self.ends_at: float | None = None
        """When the stream is over, whatever the enforcer does."""
        self.candidates: tuple[Member, ...] = ()
        """The planners of the node, as the enforcer was told."""
        self._are_candidates_new = False
        self.is_served = False
        """Whether the node's kernel has had a whole plan from this stream."""
        self.affinity_place = 0
        """Up to where the node was told of clients to remember."""
        self._context = context
        self._clock = clock
        self._metrics = metrics
        self._spans = spans
        self._wake = asyncio.Event()
        self._wake.set()
        self._is_over = False
        self._is_heartbeat_due = False
        self._notices: deque[bytes] = deque()
        self._handler = asyncio.current_task()

    def wake(self) -> None:
        """The session may have something to send."""
        self._wake.set()

    @property
    def waiting(self) -> int:
        """Messages beside transactions that are not written yet."""
        return len(self._notices)

    def send(self, message: bytes) -> bool:
        """Write this message soon, after those given before; False when too many wait already."""
        if len(self._notices) >= NOTICES_MAX:
            return False
        self._notices.append(message)
        self._wake.set()
        return True

    def ask_heartbeat(self) -> None:
        """Write a heartbeat."""
        self._is_heartbeat_due = True
        self._wake.set()

    def tell_candidates(self, candidates: tuple[Member, ...]) -> None:
        """Write the planners of the node, if they are others than it was told."""
        if candidates != self.candidates:
            self.candidates = candidates
            self._are_candidates_new = True
            self.ask_heartbeat()

    def fail(self, error: PointsmanError) -> None:
        """End the stream with this error, also when a write is stuck."""
        if self.failure is None:
            self.failure = error
            if self._handler is not None:
                self._handler.cancel()

    def finish(self) -> None:
        """End the stream after what is being written."""
        self._is_over = True
        self._wake.set()

    async def carry(self, welcome: bytes, receive: Callable[[bytes], None]) -> None:
        """Write and read until the stream ends; returns also when it failed, with `failure` set."""
        reader = asyncio.create_task(self._read(receive), name=f"reader {self.session.node}")
        try:
            await self._write(welcome)
        except asyncio.CancelledError:
            if self.failure is None:
                raise
            if self._handler is not None:
                self._handler.uncancel()
        finally:
            reader.cancel()

    async def _write(self, welcome: bytes) -> None:
        await self._context.write(welcome)
        session = self.session
        while not self._is_over:
            await self._wake.wait()
            self._wake.clear()
            while self._notices:
                await self._context.write(self._notices.popleft())
            while session.has_work:
                await self._write_transaction()
            if self._is_heartbeat_due:
                candidates = self.candidates if self._are_candidates_new else ()
                self._is_heartbeat_due = self._are_candidates_new = False
                await self._context.write(session.heartbeat(now_ns=self._clock.wall_ns(), candidates=candidates))
                self.sent_at = self._clock.monotonic()

    async def _write_transaction(self) -> None:
        session = self.session
        started_ns = self._clock.wall_ns()
        spans, parents = self._spans.sending(session.node, session.traces, start_ns=started_ns)
        frame = session.next_transaction(now_ns=started_ns, parents=parents)
        if frame is None:
            return
        size = 0
        for part in frame.parts():
            size += len(part)
            await self._context.write(part)
        self._metrics.transactions.inc()
        self._metrics.bytes_sent.inc(size)
        self.sent_at = self._clock.monotonic()
        if spans.spans:
            spans.set("pointsman.nonce", frame.nonce)
            spans.set("pointsman.bytes", size)
            spans.end(self._clock.wall_ns())

    async def _read(self, receive: Callable[[bytes], None]) -> None:
        try:
            while True:
                data = await self._context.read()
                if data is grpc.aio.EOF:
                    self.finish()
                    return
                self.heard_at = self._clock.monotonic()
                receive(data)
        except (WireError, ProtocolViolationError) as error:
            self._metrics.rejected.labels("protocol").inc()
            self.fail(PeerError(f"node {self.session.node}: {error}"))
        except PointsmanError as error:
            self._metrics.rejected.labels("protocol").inc()
            self.fail(error)
        except grpc.aio.BaseError as error:
            self.fail(UnavailableError(f"node {self.session.node}: the stream broke: {error}"))
