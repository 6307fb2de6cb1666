# SPDX-License-Identifier: Apache-2.0
"""Moves are paced, judged at their moment, asked for again only after a while; a drain ends when its work is done."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_chassis.clock import VirtualClock
from pointsman_chassis.metrics import Registry
from pointsman_planner.api.handover import Handover, HandoverPace
from pointsman_planner.core.messages import Hello
from pointsman_planner.core.ownership import Member, candidates
from pointsman_planner.metrics import ShardingMetrics

ONE = Member(planner_id="one", address="10.0.0.1:1")
TWO = Member(planner_id="two", address="10.0.0.2:1")
PENDING = "pointsman_planner_moves_pending"


@dataclass
class Session:
    node: str
    hello: Hello


@dataclass
class Stream:
    """As much of a stream as a handover looks at."""

    session: Session
    opened_at: float = 0.0
    redirected_at: float | None = None
    sent: list[pb.Redirect] = field(default_factory=list)

    def send(self, message: bytes) -> bool:
        self.sent.append(pb.StreamNodePlanResponse.FromString(message).redirect)
        return True


class World:
    """Planner `one` with a hundred nodes, and a clock."""

    def __init__(self, *, rate: float = 10.0) -> None:
        self.clock = VirtualClock()
        self.registry = Registry(process=False)
        self.handover = Handover(
            planner_id="one",
            pace=HandoverPace(nodes_per_second=rate),
            metrics=ShardingMetrics(self.registry),
            clock=self.clock,
            random=Random(7),
        )
        self.streams = {name: self._stream(name) for name in (f"node-{number}" for number in range(100))}

    @staticmethod
    def _stream(name: str, *unreachable: str) -> Stream:
        hello = Hello(node_name=name, bucket_digests=(), unreachable_planners=frozenset(unreachable))
        return Stream(Session(name, hello))

    def all(self) -> Any:
        return cast("Any", self.streams)

    @property
    def asked(self) -> set[str]:
        return {name for name, stream in self.streams.items() if stream.sent}

    @property
    def belonging_to_two(self) -> set[str]:
        return {name for name in self.streams if candidates(name, (ONE, TWO))[0] is TWO}

    @asynccontextmanager
    async def moving(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.handover.run(self.all))
        await self.clock.settle()
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_join_moves_at_the_pace_that_was_set_and_only_whom_it_must() -> None:
    world = World(rate=10.0)
    async with world.moving():
        world.handover.set_members([ONE, TWO])
        moving = len(world.belonging_to_two)
        assert 30 < moving < 70
        for second in range(1, 12):
            await world.clock.advance(1.0)
            assert len(world.asked) <= 10 * second * 1.5
        await world.clock.advance(moving / 10)
        assert world.asked == world.belonging_to_two
        assert world.registry.value(PENDING) == 0
        redirect = world.streams[next(iter(world.asked))].sent[0]
        assert redirect.reason == pb.Redirect.REASON_NOT_OWNER
        assert [candidate.planner_id for candidate in redirect.candidates] == ["two", "one"]
        assert redirect.grace.seconds == 30


async def test_a_member_that_went_again_takes_nobody_more() -> None:
    world = World(rate=10.0)
    async with world.moving():
        world.handover.set_members([ONE, TWO])
        await world.clock.advance(1.0)
        asked = set(world.asked)
        assert 0 < len(asked) < 20
        world.handover.set_members([ONE])
        await world.clock.advance(30.0)
        assert world.asked == asked


async def test_a_node_that_stays_is_asked_again_after_a_minute_and_not_before() -> None:
    world = World(rate=1000.0)
    async with world.moving():
        world.handover.set_members([ONE, TWO])
        await world.clock.advance(1.0)
        assert {len(world.streams[name].sent) for name in world.belonging_to_two} == {1}
        world.handover.set_members([ONE, TWO])
        await world.clock.advance(50.0)
        assert {len(world.streams[name].sent) for name in world.belonging_to_two} == {1}
        await world.clock.advance(100.0)
        assert min(len(world.streams[name].sent) for name in world.belonging_to_two) > 1


async def test_a_node_that_cannot_reach_its_owner_is_left_alone_for_a_while() -> None:
    world = World(rate=1000.0)
    name = min(world.belonging_to_two)
    world.streams[name] = world._stream(name, "two")
    async with world.moving():
        world.handover.set_members([ONE, TWO])
        await world.clock.advance(10.0)
        assert world.asked == world.belonging_to_two - {name}
        await world.clock.advance(320.0)
        assert name in world.asked, "what it said of its owner is old by now"


async def test_a_drain_asks_everybody_in_time_and_ends_when_they_are_gone() -> None:
    world = World(rate=1.0)
    world.handover.set_members([ONE, TWO])
    drain = asyncio.create_task(world.handover.drain(world.all, period_seconds=10.0))
    await world.clock.advance(7.5)
    assert world.asked == set(world.streams)
    reasons = {stream.sent[-1].reason for stream in world.streams.values()}
    assert reasons == {pb.Redirect.REASON_DRAINING}
    assert not drain.done()
    world.streams.clear()
    await world.clock.advance(0.1)
    assert drain.done()


async def test_a_drain_ends_with_its_period_whoever_is_left() -> None:
    world = World()
    world.handover.set_members([ONE, TWO])
    drain = asyncio.create_task(world.handover.drain(world.all, period_seconds=10.0))
    await world.clock.advance(9.9)
    assert not drain.done()
    await world.clock.advance(0.2)
    assert drain.done()


async def test_alone_there_is_nothing_to_drain() -> None:
    world = World()
    world.handover.set_members([ONE])
    drain = asyncio.create_task(world.handover.drain(world.all, period_seconds=10.0))
    await world.clock.settle()
    assert drain.done()
    assert not world.asked


async def test_overload_spreads_those_it_sends_away_further_the_more_there_are() -> None:
    world = World()
    world.handover.set_members([ONE, TWO])

    def delays(waiting: int) -> list[float]:
        messages = [world.handover.overloaded(name, waiting=waiting) for name in world.streams]
        redirects = [pb.StreamNodePlanResponse.FromString(message).redirect for message in messages]
        return [redirect.delay.ToNanoseconds() / 1e9 for redirect in redirects]

    few, many = delays(0), delays(2000)
    assert 5.0 <= min(few) < 6.0
    assert 9.0 < max(few) <= 10.0
    assert 15.0 <= min(many) < max(many) <= 30.0
