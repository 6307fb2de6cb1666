# SPDX-License-Identifier: Apache-2.0
"""A proxy of StreamNodePlan between real planners and real enforcers that loses or alters messages when told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman.plan.v1 import plan_service_pb2_grpc as pb_grpc


class PlanRelay(pb_grpc.PlanServiceServicer):
    """Hands on what planner and enforcer say to each other; `alter` may change or withhold what the planner says."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self.alter: Callable[[pb.StreamNodePlanResponse], pb.StreamNodePlanResponse | None] = lambda message: message
        self.down: list[pb.StreamNodePlanResponse] = []
        """What was handed on to enforcers."""
        self.up: list[pb.StreamNodePlanRequest] = []
        self.address = ""

    async def StreamNodePlan(  # type: ignore[override]  # noqa: N802 - grpc.aio also takes a coroutine that writes
        self, request_iterator: AsyncIterator[pb.StreamNodePlanRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        async with grpc.aio.insecure_channel(self._upstream) as channel:
            call = pb_grpc.PlanServiceStub(channel).StreamNodePlan()
            sending = asyncio.create_task(self._send_up(request_iterator, call))
            try:
                async for message in call:
                    altered = self.alter(message)
                    if altered is not None:
                        self.down.append(altered)
                        await context.write(altered)
            finally:
                sending.cancel()
                call.cancel()

    async def _send_up(self, requests: AsyncIterator[pb.StreamNodePlanRequest], call: Any) -> None:
        async for request in requests:
            self.up.append(request)
            await call.write(request)

    def count(self, kind: str) -> int:
        """How many messages of this kind enforcers sent."""
        return sum(message.WhichOneof("message") == kind for message in self.up)

    @property
    def services_sent(self) -> int:
        """How many services enforcers were sent."""
        return sum(len(message.transaction.updates) for message in self.down)


@asynccontextmanager
async def plan_relay(upstream: str) -> AsyncIterator[PlanRelay]:
    """A relay on loopback."""
    relay = PlanRelay(upstream)
    server = grpc.aio.server()
    pb_grpc.add_PlanServiceServicer_to_server(relay, server)
    relay.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield relay
    finally:
        await server.stop(0)
