# SPDX-License-Identifier: Apache-2.0
"""A planner that does exactly what a check tells it to, on real gRPC, and keeps what the enforcer says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from kit.plan_book import Key, PlanBook, name_of, node_facts
from kit.verdicts import BrokenRuleError, require
from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman.plan.v1 import plan_service_pb2_grpc as pb_grpc

PATIENCE_SECONDS = 15.0
CAPABILITIES = ("conditions",)
_QUIET = frozenset({"heartbeat", "conditions", "affinity"})
"""What an enforcer may send at any time."""


class KitStream:
    """One stream that an enforcer opened."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._requests: asyncio.Queue[pb.StreamNodePlanRequest] = asyncio.Queue()
        self._over = asyncio.Event()
        self._beats: asyncio.Task[None] | None = None
        self.hello = pb.Hello()
        self.opened_at = time.monotonic()
        self.is_ended = False
        """The enforcer closed it, or it was ended here."""
        self.heard: list[str] = []
        """Kinds of all messages, in order."""
        self.heartbeats: list[pb.Heartbeat] = []
        self.nonce = 0
        self.reached = 0
        """The newest transaction that was acknowledged as programmed."""
        self.is_greeted = False
        self.patience_seconds = PATIENCE_SECONDS
        """How long an answer may take."""

    # -- what the kit does -------------------------------------------------------------------------------------------

    async def greet(
        self,
        *,
        interval_seconds: float,
        candidates: Iterable[tuple[str, str]] = (),
        capabilities: tuple[str, ...] = CAPABILITIES,
        beats: bool = True,
    ) -> None:
        """Welcome the enforcer; heartbeats follow by themselves."""
        self.is_greeted = True
        message = pb.Welcome(planner_id="contract-kit", capabilities=capabilities)
        message.heartbeat_interval.FromNanoseconds(round(interval_seconds * 1e9))
        for planner, address in candidates:
            message.candidates.add(planner_id=planner, address=address)
        await self.write(pb.StreamNodePlanResponse(welcome=message))
        if beats:
            self._beats = asyncio.create_task(self._beat(interval_seconds))

    async def write(self, message: pb.StreamNodePlanResponse) -> None:
        """Send one message.

        Raises:
            BrokenRuleError: the enforcer has ended the stream.
        """
        try:
            await self._context.write(message)
        except (grpc.aio.BaseError, asyncio.InvalidStateError) as error:
            raise BrokenRuleError(f"the enforcer ended the stream: {error}") from error

    async def send(
        self,
        book: PlanBook,
        updates: Mapping[Key, bytes],
        *,
        removals: Iterable[Key] = (),
        replaced_buckets: Iterable[int] = (),
        replaces_all: bool = False,
    ) -> int:
        """A transaction in one part that leads to `book`; gives its nonce."""
        self.nonce += 1
        (part,) = self.parts(book, updates, 1)
        part.removals.extend(name_of(key) for key in removals)
        part.replaced_buckets.extend(replaced_buckets)
        part.replaces_all = replaces_all
        await self.write(pb.StreamNodePlanResponse(transaction=part))
        return self.nonce

    def parts(self, book: PlanBook, updates: Mapping[Key, bytes], count: int) -> list[pb.Transaction]:
        """The parts of the transaction with the present nonce; the first of a stream carries facts of the node."""
        keys = list(updates)
        size = max(-(-len(keys) // count), 1)
        position = pb.Position(epoch="contract-kit", revision=self.nonce)
        made = [pb.Transaction(nonce=self.nonce, part=index, position=position) for index in range(count)]
        for index, part in enumerate(made):
            for key in keys[index * size : (index + 1) * size]:
                part.updates.add(name=name_of(key), plan=updates[key])
        if self.nonce == 1:
            made[0].node.CopyFrom(node_facts(self.hello.node_name))
        made[-1].commit = made[-1].in_sync = True
        made[-1].digest = book.digest
        return made

    def end(self) -> None:
        """End the stream as a planner does that goes away."""
        self.is_ended = True
        self._over.set()

    async def _beat(self, interval_seconds: float) -> None:
        while True:
            await asyncio.sleep(interval_seconds * 0.75)
            message = pb.StreamNodePlanResponse(heartbeat=pb.Heartbeat())
            message.heartbeat.sent_at.GetCurrentTime()
            await self._context.write(message)

    # -- what the enforcer does --------------------------------------------------------------------------------------

    async def expect(self, *kinds: str, within: float | None = None) -> pb.StreamNodePlanRequest:
        """The next message of one of these kinds; only what an enforcer may send at any time may come before it."""
        try:
            async with asyncio.timeout(within or self.patience_seconds):
                while True:
                    message = await self._requests.get()
                    kind = message.WhichOneof("message") or "nothing"
                    if kind in kinds:
                        return message
                    require(kind in _QUIET, f"{kind} came where {' or '.join(kinds)} was due")
        except TimeoutError as error:
            state = "the stream was ended" if self.is_ended else f"heard: {', '.join(self.heard[-5:]) or 'nothing'}"
            raise BrokenRuleError(
                f"no {' or '.join(kinds)} within {within or self.patience_seconds:.0f} s; {state}"
            ) from error

    async def acknowledged(self, nonce: int) -> pb.Ack:
        """The ack that says that a transaction, or one after it, is in the kernel."""
        while True:
            ack = (await self.expect("ack")).ack
            require(ack.nonce <= self.nonce, f"ack names transaction {ack.nonce}, the last one sent is {self.nonce}")
            if ack.nonce >= nonce and ack.level >= pb.ACK_LEVEL_PROGRAMMED:
                self.reached = ack.nonce
                return ack

    async def silence(self, seconds: float, why: str) -> None:
        """For so long nothing may come but what may come at any time, such as an ack that repeats an earlier one."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    message = await self._requests.get()
                    kind = message.WhichOneof("message")
                    is_repeated = kind == "ack" and message.ack.nonce <= self.reached
                    require(kind in _QUIET or is_repeated, f"{kind} came {why}")
        except TimeoutError:
            require(not self.is_ended, f"the enforcer ended the stream {why}")

    async def ended(self, within: float, why: str) -> None:
        """The enforcer must end the stream."""
        deadline = time.monotonic() + within
        while not self.is_ended:
            require(time.monotonic() < deadline, f"the stream is still open {within:.0f} s after {why}")
            await asyncio.sleep(0.02)

    async def serve(self) -> None:
        """Until either side ends the stream."""
        reading = asyncio.create_task(self._read())
        ending = asyncio.create_task(self._over.wait())
        try:
            await asyncio.wait({reading, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.is_ended = True
            for task in (reading, ending, self._beats):
                if task is not None:
                    task.cancel()

    async def _read(self) -> None:
        while True:
            message = await self._context.read()
            if message is grpc.aio.EOF:
                return
            kind = message.WhichOneof("message") or "nothing"
            self.heard.append(kind)
            if kind == "heartbeat":
                self.heartbeats.append(message.heartbeat)
            self._requests.put_nowait(message)


class KitPlanner(pb_grpc.PlanServiceServicer):
    """Listens; hands each stream to the checks, or refuses it."""

    def __init__(self) -> None:
        self._streams: asyncio.Queue[KitStream] = asyncio.Queue()
        self.address = ""
        self.is_refusing = False
        self.dialed_at: list[float] = []
        """When streams were opened."""
        self.all_streams: list[KitStream] = []

    async def StreamNodePlan(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802 - grpc.aio also takes a coroutine that reads and writes; the name in the proto
        """One stream."""
        self.dialed_at.append(time.monotonic())
        if self.is_refusing:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the contract kit refuses for a while")
        stream = KitStream(context)
        self.all_streams.append(stream)
        self._streams.put_nowait(stream)
        await stream.serve()

    async def stream(self, *, within: float = 60.0) -> KitStream:
        """The next stream, with its hello."""
        try:
            async with asyncio.timeout(within):
                while True:
                    stream = await self._streams.get()
                    if not stream.is_ended:
                        break
        except TimeoutError as error:
            raise BrokenRuleError(f"no enforcer has dialed {self.address} within {within:.0f} s") from error
        first = await stream.expect("hello", within=10)
        stream.hello = first.hello
        return stream


@asynccontextmanager
async def kit_planner(address: str = "127.0.0.1:0") -> AsyncIterator[KitPlanner]:
    """A planner that listens."""
    planner, server = KitPlanner(), grpc.aio.server()
    pb_grpc.add_PlanServiceServicer_to_server(planner, server)
    port = server.add_insecure_port(address)
    planner.address = f"{address.rpartition(':')[0]}:{port}"
    await server.start()
    try:
        yield planner
    finally:
        await server.stop(0)
