# SPDX-License-Identifier: Apache-2.0
"""The planner's side of StreamNodePlan on a real gRPC server, played by the test message by message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman.plan.v1 import plan_service_pb2_grpc as pb_grpc
from pointsman_chassis.credentials import server_credentials
from pointsman_chassis.tls import TransportSecurity
from pointsman_enforcer.core.messages import name_to_pb, transaction_to_pb
from pointsman_enforcer.core.transaction import ChangeOrigin, Position, Transaction
from pointsman_model.names import ServiceKey
from pointsman_model.plan import NodeFacts
from support.enforcer_plans import FACTS, digest_of

DEADLINE_SECONDS = 15.0
_ACKS = {pb.ACK_LEVEL_RECEIVED: "received", pb.ACK_LEVEL_PROGRAMMED: "ack", pb.ACK_LEVEL_VERIFIED: "verified"}


async def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds; fails with `what` after a deadline."""
    deadline = asyncio.get_running_loop().time() + DEADLINE_SECONDS
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"not within {DEADLINE_SECONDS} s: {what}"
        await asyncio.sleep(0.005)


class ScriptedStream:
    """One stream, open until `end`."""

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._context = context
        self._received: asyncio.Queue[pb.StreamNodePlanRequest] = asyncio.Queue()
        self._over = asyncio.Event()
        self.is_closed = False
        self.held: dict[ServiceKey, bytes] = {}

    async def welcome(
        self,
        *,
        heartbeat_seconds: float = 30.0,
        capabilities: Sequence[str] = (),
        planner_id: str = "scripted",
        candidates: Sequence[pb.Candidate] = (),
    ) -> pb.Hello:
        """Take the hello, which must come first, and answer it."""
        hello = await self.receive("hello")
        message = pb.StreamNodePlanResponse(
            welcome=pb.Welcome(planner_id=planner_id, capabilities=capabilities, candidates=candidates)
        )
        message.welcome.heartbeat_interval.FromNanoseconds(round(heartbeat_seconds * 1e9))
        await self._context.write(message)
        return hello.hello

    async def receive(self, field: str, *, passing: Sequence[str] = ()) -> pb.StreamNodePlanRequest:
        """The next message, which must be of this kind; heartbeats, and those of `passing`, are passed over.

        An ack that something is programmed is an `ack`; the others are called `received` and `verified`, and are passed
        over as well.
        """
        while True:
            message = await self.next()
            kind = _ACKS[message.ack.level] if message.HasField("ack") else str(message.WhichOneof("message"))
            if kind == field:
                return message
            passed = {"heartbeat", "received", "verified", *passing}
            assert kind in passed, f"{kind} came where {field} was due: {message}"

    async def next(self) -> pb.StreamNodePlanRequest:
        """The next message, whatever it is."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self._received.get()

    async def send(self, nonce: int, updates: Mapping[ServiceKey, bytes], **changes: object) -> None:
        """A transaction in one part that replaces `updates`; its digest is right unless `changes` say otherwise."""
        removals: tuple[ServiceKey, ...] = changes.pop("removals", ())  # type: ignore[assignment]  # by name
        facts: NodeFacts | None = changes.pop("facts", FACTS if nonce == 1 else None)  # type: ignore[assignment]  # by name
        self.held = {**self.held, **updates}
        for name in removals:
            self.held.pop(name, None)
        sources: tuple[ChangeOrigin, ...] = changes.pop("sources", ())  # type: ignore[assignment]  # by name
        transaction = Transaction(
            nonce=nonce,
            position=Position("scripted", nonce),
            updates=updates,
            removals=removals,
            facts=facts,
            digest=digest_of(self.held),
            in_sync=True,
        )
        part = transaction_to_pb(transaction)
        for source in sources:
            added = part.origins.add(service=name_to_pb(source.service))
            added.trace.traceparent = source.traceparent
            added.trigger_time.FromNanoseconds(source.trigger_time_ns)
        for field, value in changes.items():
            if field == "replaced_buckets":
                part.replaced_buckets.extend(value)  # type: ignore[arg-type]  # numbers
            else:
                setattr(part, field, value)
        await self._context.write(pb.StreamNodePlanResponse(transaction=part))

    async def redirect(
        self,
        *candidates: pb.Candidate,
        reason: pb.Redirect.Reason.ValueType = pb.Redirect.REASON_NOT_OWNER,
        grace_seconds: float = 0.0,
    ) -> None:
        """Send the enforcer to others."""
        message = pb.StreamNodePlanResponse(redirect=pb.Redirect(candidates=candidates, reason=reason))
        message.redirect.grace.FromNanoseconds(round(grace_seconds * 1e9))
        await self._context.write(message)

    async def beat(self) -> None:
        """Send a heartbeat."""
        await self.write(pb.StreamNodePlanResponse(heartbeat=pb.Heartbeat()))

    async def write(self, message: pb.StreamNodePlanResponse) -> None:
        """Send any message."""
        await self._context.write(message)

    def end(self) -> None:
        """Close the stream from the planner's side."""
        self._over.set()

    async def take_all(self, requests: AsyncIterator[pb.StreamNodePlanRequest]) -> None:
        reading = asyncio.create_task(self._read(requests))
        ending = asyncio.create_task(self._over.wait())
        try:
            await asyncio.wait({reading, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.is_closed = True
            reading.cancel()
            ending.cancel()

    async def _read(self, requests: AsyncIterator[pb.StreamNodePlanRequest]) -> None:
        async for request in requests:
            self._received.put_nowait(request)


class ScriptedPlanner(pb_grpc.PlanServiceServicer):
    """Hands each stream to the test."""

    def __init__(self) -> None:
        self._streams: asyncio.Queue[ScriptedStream] = asyncio.Queue()
        self.address = ""

    async def StreamNodePlan(  # type: ignore[override]  # noqa: N802 - grpc.aio also takes a coroutine that writes
        self, request_iterator: AsyncIterator[pb.StreamNodePlanRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        stream = ScriptedStream(context)
        self._streams.put_nowait(stream)
        await stream.take_all(request_iterator)

    def candidate(self, planner_id: str = "scripted") -> pb.Candidate:
        """This planner, as another would tell of it."""
        return pb.Candidate(planner_id=planner_id, address=self.address)

    @property
    def is_idle(self) -> bool:
        """Whether no stream waits to be taken."""
        return self._streams.empty()

    async def stream(self) -> ScriptedStream:
        """The next stream an enforcer opens."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self._streams.get()


@asynccontextmanager
async def scripted_planner(
    port: int = 0, *, security: TransportSecurity | None = None
) -> AsyncIterator[ScriptedPlanner]:
    """A planner on loopback, in plaintext unless told otherwise."""
    planner = ScriptedPlanner()
    server = grpc.aio.server()
    pb_grpc.add_PlanServiceServicer_to_server(planner, server)
    credentials = server_credentials(security) if security is not None else None
    address = f"127.0.0.1:{port}"
    bound = server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
    planner.address = f"127.0.0.1:{bound}"
    await server.start()
    try:
        yield planner
    finally:
        await server.stop(0)
