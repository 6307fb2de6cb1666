# SPDX-License-Identifier: Apache-2.0
"""A planner that reads nothing costs a node a bounded number of messages, and one that has gone is told as gone."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_chassis.clock import SystemClock
from pointsman_enforcer.core.errors import PlanProtocolError
from pointsman_enforcer.core.plan_session import PlanSession, Send
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.feed.connection import OUTBOX_MAX, Connection, ConnectionEvents

DEADLINE_SECONDS = 15.0


@dataclass(slots=True)
class DeafCall:
    """A call whose other end says nothing, and takes nothing after the first message."""

    written: list[pb.StreamNodePlanRequest] = field(default_factory=list)
    is_cancelled: bool = False

    async def read(self) -> Any:
        await asyncio.Event().wait()

    async def write(self, message: pb.StreamNodePlanRequest) -> None:
        self.written.append(message)
        await asyncio.Event().wait()

    def cancel(self) -> None:
        self.is_cancelled = True

    def done(self) -> bool:
        return False


@dataclass(slots=True)
class OverCall(DeafCall):
    """A call that is over, of which the reader hears a moment later than the writer."""

    heard: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self) -> Any:
        await self.heard.wait()
        return grpc.aio.EOF

    async def write(self, message: pb.StreamNodePlanRequest) -> None:
        raise asyncio.InvalidStateError(f"RPC already finished: {message}")

    def done(self) -> bool:
        return True


def make_connection(call: DeafCall, overflows: list[None]) -> Connection:
    events = ConnectionEvents(
        committed=_not_expected,
        welcomed=_not_expected,
        redirected=_not_expected,
        candidates=_not_expected,
        remember=_not_expected,
        resync=lambda: None,
        overflow=lambda: overflows.append(None),
    )
    clock = SystemClock()
    session = PlanSession(hello=pb.Hello(node_name="node-1"), store=PlanStore(), now=clock.monotonic())
    return Connection(1, call, session, events, clock)


async def test_a_stream_whose_planner_reads_nothing_is_ended_while_the_first_message_is_stuck() -> None:
    overflows: list[None] = []
    call = DeafCall()
    connection = make_connection(call, overflows)
    serving = asyncio.create_task(connection.serve())
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not call.written:
            await asyncio.sleep(0)
        for _ in range(OUTBOX_MAX + 2):
            connection.perform([Send(pb.StreamNodePlanRequest(heartbeat=pb.Heartbeat()))])
        with pytest.raises(PlanProtocolError, match=f"has not read {OUTBOX_MAX} messages"):
            await serving
    assert call.is_cancelled
    assert len(call.written) == 1
    assert len(overflows) == 1


async def test_what_is_queued_for_a_call_that_is_over_ends_nothing_but_the_stream() -> None:
    call = OverCall()
    connection = make_connection(call, [])
    serving = asyncio.create_task(connection.serve())
    async with asyncio.timeout(DEADLINE_SECONDS):
        for _ in range(10):
            connection.perform([Send(pb.StreamNodePlanRequest(heartbeat=pb.Heartbeat()))])
            await asyncio.sleep(0)
        assert not serving.done()
        call.heard.set()
        await serving
    assert call.is_cancelled


def _not_expected(*_: object) -> None:
    pytest.fail("nothing but silence was sent")
