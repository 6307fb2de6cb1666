# SPDX-License-Identifier: Apache-2.0
"""The client of StreamNodePlan: opens and closes streams as the Dialer says, for ever.

Losing a stream removes nothing and forgets nothing: the plan held is the next stream's starting point. While the node
moves from one planner to another there are two streams, and both change the one plan.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import grpc
import grpc.aio
import structlog

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman.plan.v1 import plan_service_pb2_grpc as pb_grpc
from pointsman_chassis.clock import Clock, Timer
from pointsman_chassis.errors import PointsmanError
from pointsman_enforcer.core.candidates import Redirect
from pointsman_enforcer.core.conditions import ServiceConditions
from pointsman_enforcer.core.dialing import Action, Close, Dialer, Ending, LookUp, Open
from pointsman_enforcer.core.errors import PlannerSilentError, PlanProtocolError
from pointsman_enforcer.core.plan_session import Commit, PlanSession, Programmed
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.core.planner_directory import PlannerMemory, Source
from pointsman_enforcer.feed.connection import Connection, ConnectionEvents
from pointsman_model.remembered import RememberedClient


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEvents:
    """What the owner wants to hear. All are called on the loop and must be quick."""

    committed: Callable[[Commit, object, float, int], None]
    """A transaction: with the stream, and when it came (monotonic seconds, wall clock nanoseconds)."""
    connected: Callable[[bool], None]
    """A stream came in sync, or one ended and no other is in sync."""
    resync: Callable[[], None]
    overflow: Callable[[], None]
    redirected: Callable[[], None]
    """A planner sent us to another."""
    affinity_wanted: Callable[[], None]
    """A planner that shares exceptions of session affinity has brought its first transaction."""
    remember: Callable[[Sequence[RememberedClient]], None]
    """A planner told of clients that other nodes remember."""


class PlanStream:
    """Keeps a stream to one of the planners, and a second one while it moves."""

    def __init__(
        self,
        *,
        dialer: Dialer,
        open_channel: Callable[[str], grpc.aio.Channel],
        make_hello: Callable[[Sequence[str]], pb.Hello],
        look_up: Callable[[Source], Awaitable[Sequence[str]]],
        remember: Callable[[PlannerMemory], Awaitable[None]],
        store: PlanStore,
        events: StreamEvents,
        clock: Clock,
        conditions: ServiceConditions | None = None,
    ) -> None:
        """`make_hello` takes the ids of planners that cannot be reached; `remember` keeps what is known on disk."""
        self._dialer = dialer
        self._open_channel = open_channel
        self._make_hello = make_hello
        self._look_up = look_up
        self._remember = remember
        self._store = store
        self._events = events
        self._clock = clock
        self._conditions = conditions
        self._connections: dict[int, Connection] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._group = asyncio.TaskGroup()
        self._timer: Timer | None = None
        self._kept_memory = dialer.directory.memory
        self._is_saving = False
        self._asked = 0
        """The newest stream whose planner asked for exceptions of session affinity."""
        self._log = structlog.get_logger("plan-stream")
        self._connection_events = ConnectionEvents(
            committed=self._committed,
            welcomed=self._welcomed,
            redirected=self._redirected,
            candidates=self._candidates_told,
            remember=events.remember,
            resync=events.resync,
            overflow=events.overflow,
        )

    @property
    def planner_id(self) -> str:
        """The planner of the stream that is kept, empty when there is none."""
        kept = self._connections.get(self._dialer.kept)
        return "" if kept is None else kept.session.planner_id

    @property
    def is_in_sync(self) -> bool:
        """Whether a present stream has brought the whole plan."""
        return any(connection.session.is_in_sync for connection in self._connections.values())

    def planners(self) -> dict[str, list[str]]:
        """Whom this node would dial, and whom it could not reach, for people."""
        directory, now = self._dialer.directory, self._clock.monotonic()
        return {
            "candidates": [f"{each.planner_id or 'unknown'} {each.address}" for each in directory.memory.told],
            "remembered": list(directory.memory.remembered),
            "unreachable": list(directory.unreachable(now)),
        }

    async def run(self) -> None:
        """Stream until cancelled."""
        async with self._group:
            self._perform(self._dialer.begin(self._clock.monotonic()))
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                if self._timer is not None:
                    self._timer.cancel()

    def report(self, stream: object, programmed: Programmed) -> None:
        """Send what the kernel has: of a transaction only to the stream that brought it, `stream` None to all."""
        for connection in list(self._connections.values()):
            if stream is None and not connection.session.is_in_sync:
                continue
            if stream is None or stream is connection:
                connection.perform(connection.session.programmed(programmed, self._clock.monotonic()))
            if stream is connection and connection.session.is_served:
                self._perform(self._dialer.served(connection.number, self._clock.monotonic()))

    def received(self, stream: object, nonce: int) -> None:
        """A transaction is on disk."""
        for connection in self._connections.values():
            if connection is stream:
                connection.perform(connection.session.received(nonce, self._clock.monotonic()))

    def verified(self, digest: int, programmed_digest: int) -> None:
        """What the kernel has was read back and is what it acknowledged."""
        for connection in self._connections.values():
            actions = connection.session.verified(digest, programmed_digest, self._clock.monotonic())
            connection.perform(actions)

    def tell_conditions(self) -> None:
        """Send the conditions, which have changed; a stream that opens later tells of them by itself."""
        for connection in self._connections.values():
            connection.perform(connection.session.tell_conditions(self._clock.monotonic()))

    def tell_affinity(self, clients: Sequence[RememberedClient]) -> bool:
        """Tell of exceptions of session affinity; whether some planner wants to know."""
        wanted = [each for each in self._connections.values() if each.session.wants_affinity]
        for connection in wanted:
            connection.perform(connection.session.tell_affinity(clients, self._clock.monotonic()))
        return bool(wanted)

    # -- what streams say --------------------------------------------------------------------------------------------

    def _committed(self, connection: Connection, commit: Commit) -> None:
        self._events.committed(commit, connection, self._clock.monotonic(), self._clock.wall_ns())
        if not commit.in_sync:
            return
        self._events.connected(True)
        if connection.number > self._asked and connection.session.wants_affinity:
            self._asked = connection.number
            self._events.affinity_wanted()
        for other in self._connections.values():
            if other.number < connection.number:
                other.session.retire()

    def _welcomed(self, connection: Connection) -> None:
        session = connection.session
        self._log.info("planner reached", planner=session.planner_id, candidates=len(session.candidates))
        now = self._clock.monotonic()
        self._perform(self._dialer.welcomed(connection.number, session.planner_id, session.candidates, now))

    def _candidates_told(self, connection: Connection) -> None:
        session = connection.session
        self._log.info("planners changed", planner=session.planner_id, candidates=len(session.candidates))
        self._perform(self._dialer.told(connection.number, session.candidates))

    def _redirected(self, connection: Connection, redirect: Redirect) -> None:
        self._events.redirected()
        self._log.info(
            "a planner sends us on",
            planner=connection.session.planner_id,
            to=[each.address for each in redirect.candidates],
            reason=redirect.reason.name,
            delay=redirect.delay_seconds,
        )
        self._perform(self._dialer.redirected(connection.number, redirect, self._clock.monotonic()))

    # -- what the dialer says ----------------------------------------------------------------------------------------

    def _perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Open):
                self._tasks[action.stream] = self._group.create_task(self._stream(action))
            elif isinstance(action, Close):
                self._close(action.stream)
            else:
                self._group.create_task(self._find(action))
        self._schedule()
        if self._dialer.directory.memory != self._kept_memory and not self._is_saving:
            self._is_saving = True
            self._group.create_task(self._save())

    def _close(self, number: int) -> None:
        """Leave a stream."""
        self._tasks.pop(number).cancel()
        self._forget(number)

    def _forget(self, number: int) -> Connection | None:
        """A stream is no more; what is left of two is the one whose plan it has to be."""
        was_in_sync = self.is_in_sync
        connection = self._connections.pop(number, None)
        for other in self._connections.values():
            other.confirm()
        if was_in_sync and not self.is_in_sync:
            self._events.connected(False)
        return connection

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._dialer.next_tick()
        if due < math.inf:
            delay = max(due - self._clock.monotonic(), 0.0)
            self._timer = self._clock.call_later(delay, self._tick)

    def _tick(self) -> None:
        self._perform(self._dialer.tick(self._clock.monotonic()))

    async def _stream(self, opening: Open) -> None:
        """One stream to its end, which the dialer is told of."""
        ending, reason = await self._serve(opening)
        connection = self._forget(opening.stream)
        self._tasks.pop(opening.stream, None)
        self._log.warning(
            "a plan stream ended; what is programmed stays",
            planner=opening.target.address,
            reason=reason,
            was_in_sync=connection is not None and connection.session.is_in_sync,
        )
        self._perform(self._dialer.ended(opening.stream, ending, self._clock.monotonic()))

    async def _serve(self, opening: Open) -> tuple[Ending, str]:
        """How a stream ended, and why."""
        try:
            channel = self._open_channel(opening.target.address)
        except PointsmanError as error:
            return Ending.LOST, str(error)
        try:
            call = pb_grpc.PlanServiceStub(channel).StreamNodePlan()
            hello = self._make_hello(opening.unreachable)
            now = self._clock.monotonic()
            session = PlanSession(hello=hello, store=self._store, now=now, conditions=self._conditions)
            connection = Connection(opening.stream, call, session, self._connection_events, self._clock)
            self._connections[opening.stream] = connection
            await connection.serve()
        except grpc.aio.AioRpcError as error:
            return Ending.LOST, f"{error.code().name}: {error.details()}"
        except PlannerSilentError as error:
            return Ending.SILENT, str(error)
        except PlanProtocolError as error:
            return Ending.FAULTY, str(error)
        finally:
            await channel.close()
        return Ending.LOST, "the planner ended the stream"

    async def _find(self, action: LookUp) -> None:
        addresses = await self._look_up(action.source)
        self._log.info("looked for planners", source=action.source.name, found=list(addresses))
        self._perform(self._dialer.found(action.source, addresses, self._clock.monotonic()))

    async def _save(self) -> None:
        try:
            while (memory := self._dialer.directory.memory) != self._kept_memory:
                self._kept_memory = memory
                await self._remember(memory)
        finally:
            self._is_saving = False
