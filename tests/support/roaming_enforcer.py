# SPDX-License-Identifier: Apache-2.0
"""A model enforcer that goes where planners send it: rules 12 and 13 of StreamNodePlan, make before break."""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc.aio

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_model.names import ServiceKey
from support.model_enforcer import ModelEnforcer
from support.plan_server import METHOD

_RETRY_SECONDS = 0.05
_HEARTBEAT_SECONDS = 0.3


class _Link:
    """One stream; its enforcer holds a copy of the plan until the stream is served."""

    def __init__(self, owner: "RoamingEnforcer", address: str) -> None:
        self.owner = owner
        self.address = address
        self.planner_id = ""
        self.enforcer = ModelEnforcer(owner.node)
        self.enforcer.plans = dict(owner.plans)
        self.is_served = False
        self.redirect: pb.Redirect | None = None
        self.first_bytes = 0
        self.changed = asyncio.Event()
        self._writing = asyncio.Lock()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        beating: asyncio.Task[None] | None = None
        try:
            async with grpc.aio.insecure_channel(self.address) as channel:
                call: Any = channel.stream_stream(METHOD)()
                hello = self.enforcer.hello()
                hello.hello.unreachable_planners.extend(sorted(self.owner.unreachable))
                await call.write(hello.SerializeToString())
                beating = asyncio.create_task(self._beat(call))
                while (data := await call.read()) is not grpc.aio.EOF:
                    await self._take(call, data)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass
        finally:
            if beating is not None:
                beating.cancel()
            self.changed.set()

    async def _write(self, call: Any, message: pb.StreamNodePlanRequest) -> None:
        """A stream takes one message at a time, whoever writes."""
        async with self._writing:
            await call.write(message.SerializeToString())

    async def _beat(self, call: Any) -> None:
        while True:
            await asyncio.sleep(_HEARTBEAT_SECONDS)
            await self._write(call, self.enforcer.heartbeat())

    async def _take(self, call: Any, data: bytes) -> None:
        message = pb.StreamNodePlanResponse.FromString(data)
        if message.HasField("welcome"):
            self.planner_id = message.welcome.planner_id
            self.owner.unreachable.discard(self.planner_id)
            self.owner.candidates = tuple(message.welcome.candidates)
        elif message.heartbeat.candidates:
            self.owner.candidates = tuple(message.heartbeat.candidates)
        elif message.HasField("redirect"):
            self.redirect = message.redirect
        elif message.HasField("transaction"):
            self.owner.transaction_bytes += len(data)
            if not self.is_served:
                self.first_bytes += len(data)
        nonce = self.enforcer.receive(data)
        if nonce is not None:
            assert self.enforcer.agrees, f"{self.owner.node} from {self.planner_id}"
            await self._write(call, self.enforcer.ack(nonce))
            self.is_served = True
        self.changed.set()

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


class RoamingEnforcer:
    """One node. `planner` is who serves it; `dials` and `moves` are counted."""

    def __init__(self, node: str, addresses: Sequence[str]) -> None:
        self.node = node
        self.addresses = tuple(addresses)
        self.candidates: tuple[pb.Candidate, ...] = ()
        self.unreachable: set[str] = set()
        self.link: _Link | None = None
        self.dials = 0
        self.moves: list[str] = []
        """Planners that have served it, in order."""
        self.reasons: list[int] = []
        """Of redirects."""
        self.gaps = 0
        """Times it was served and then was not."""
        self.transaction_bytes = 0
        self.delays: list[float] = []

    @property
    def plans(self) -> dict[ServiceKey, bytes]:
        """The plan held."""
        return dict(self.link.enforcer.plans) if self.link is not None else {}

    @property
    def planner(self) -> str:
        """Who serves it; empty when nobody does."""
        link = self.link
        return link.planner_id if link is not None and link.is_served and not link.task.done() else ""

    async def run(self) -> None:
        """Be served, for ever."""
        try:
            while True:
                await self._find(self._known())
                await self._stay()
                await asyncio.sleep(_RETRY_SECONDS)
        finally:
            if self.link is not None:
                await self.link.close()

    def _known(self) -> list[pb.Candidate]:
        others = [pb.Candidate(address=address) for address in self.addresses]
        return [*self.candidates, *others]

    async def _stay(self) -> None:
        """Until the stream is lost; goes elsewhere when asked to."""
        while (link := self.link) is not None:
            await link.changed.wait()
            link.changed.clear()
            if link.task.done():
                self.gaps += 1
                return
            redirect, link.redirect = link.redirect, None
            if redirect is not None:
                self.reasons.append(redirect.reason)
                await self._find([*redirect.candidates, *self._known()])

    async def _find(self, targets: Sequence[pb.Candidate]) -> None:
        """Dial until one serves, then let go of the former."""
        queue = list(targets)
        tried: set[str] = set()
        while queue:
            target = queue.pop(0)
            if target.address in tried:
                continue
            tried.add(target.address)
            self.dials += 1
            dialled = _Link(self, target.address)
            link: _Link | None = dialled
            try:
                redirect = await self._served(dialled)
                if dialled.is_served:
                    # What is closed below is the former stream: the new one has brought the plan.
                    link, self.link = self.link, dialled
                    self.moves.append(dialled.planner_id)
                    return
            finally:
                if link is not None:
                    await link.close()
            if redirect is not None:
                self.reasons.append(redirect.reason)
                self.delays.append(redirect.delay.ToNanoseconds() / 1e9)
                queue = [*redirect.candidates, *queue]
            elif not dialled.planner_id and target.planner_id:
                self.unreachable.add(target.planner_id)

    async def _served(self, link: _Link) -> pb.Redirect | None:
        """Wait until it is, or is sent on, or fails."""
        while not link.is_served and not link.task.done() and link.redirect is None:
            await link.changed.wait()
            link.changed.clear()
        link.changed.set()
        return link.redirect
