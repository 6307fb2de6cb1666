# SPDX-License-Identifier: Apache-2.0
"""When kube-proxy's leftovers are removed: after our own rules, never in a contest with one that still runs."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from pointsman_chassis.clock import SystemClock
from pointsman_chassis.metrics import Registry
from pointsman_enforcer.dataplane.kube_proxy.pace import RUNNING, TakeoverBook, TakeoverPace, TakeoverState
from pointsman_enforcer.dataplane.kube_proxy.takeover import KubeProxyTakeover, TakeoverMetrics
from pointsman_enforcer.dataplane.leftovers import LeftoverError

PACE = TakeoverPace(look_seconds=20, quiet_looks=3, idle_seconds=60, return_seconds=30, return_seconds_max=100)


class Rules:
    """A leftover in memory, which may wait for connections or refuse."""

    name = "rules"

    def __init__(self, count: int = 5) -> None:
        self.count, self.connections, self.removals = count, 0, 0
        self.is_refusing = False

    @property
    def is_waiting(self) -> bool:
        return self.count > 0 and self.count == self.connections

    async def find(self) -> str:
        return f"{self.count} chains" if self.count else ""

    async def remove(self) -> int:
        if self.is_refusing:
            raise LeftoverError("rules: refused")
        self.removals += 1
        removed, self.count = self.count - self.connections, self.connections
        return removed


class Node:
    """A takeover of these rules; whether a process is seen is up to the test."""

    def __init__(self, rules: Rules) -> None:
        self.rules, self.process = rules, 0
        self.registry = Registry(process=False)
        self.takeover = KubeProxyTakeover(
            [rules],
            clock=SystemClock(),
            metrics=TakeoverMetrics(self.registry),
            book=TakeoverBook(PACE),
            find_process=lambda: self.process,
            is_port_taken=lambda: True,
        )

    async def steps(self, count: int) -> list[float]:
        return [await self.takeover.step() for _ in range(count)]


def test_nothing_is_looked_for_before_our_own_rules_are_verified() -> None:
    async def scenario() -> None:
        node = Node(Rules())
        running = asyncio.create_task(node.takeover.run())
        await asyncio.sleep(0)
        assert (node.takeover.state, node.rules.removals) == (TakeoverState.NOT_YET, 0)
        node.takeover.verified()
        while not node.rules.removals:
            await asyncio.sleep(0)
        running.cancel()

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_what_is_there_goes_at_once_and_looks_end_when_nothing_comes_back() -> None:
    node = Node(Rules())
    assert asyncio.run(node.steps(5)) == [20, 20, 20, 60, 60]
    assert node.rules.removals == 1
    assert node.takeover.state is TakeoverState.CLEAN


def test_rules_that_come_back_are_removed_ever_more_seldom_and_it_is_said_what_to_do() -> None:
    async def scenario() -> list[float]:
        pauses = []
        for _ in range(8):
            pauses.append(await node.takeover.step())
            if node.rules.count == 0:
                node.rules.count = 5
        return pauses

    node = Node(Rules())
    with capture_logs() as logs:
        assert asyncio.run(scenario()) == [20, 30, 20, 60, 20, 100, 20, 100]
    assert node.rules.removals == 4
    assert node.takeover.state is TakeoverState.RUNNING
    warnings = [each for each in logs if each["log_level"] == "warning"]
    assert {each["event"] for each in warnings} == {RUNNING}
    assert len(warnings) == 4
    assert "pointsman_enforcer_kube_proxy_running 1" in node.registry.render()[1].decode()


def test_nothing_is_removed_while_a_process_is_seen_and_all_of_it_once_it_has_ended() -> None:
    node = Node(Rules())
    node.process = 42
    with capture_logs() as logs:
        asyncio.run(node.steps(4))
        assert (node.rules.removals, node.takeover.state) == (0, TakeoverState.RUNNING)
        node.process = 0
        asyncio.run(node.steps(1))
    assert (node.rules.count, node.takeover.state) == (0, TakeoverState.REMOVED)
    assert [each["seen"] for each in logs if each["event"] == RUNNING] == ["process 42"]


def test_a_process_that_appears_long_afterwards_begins_the_looks_anew() -> None:
    node = Node(Rules(0))
    asyncio.run(node.steps(4))
    node.rules.count, node.process = 5, 42
    asyncio.run(node.steps(1))
    node.process = 0
    asyncio.run(node.steps(1))
    assert node.rules.count == 0


def test_what_carries_connections_is_asked_again_and_is_no_return() -> None:
    async def scenario() -> None:
        await node.takeover.step()
        assert node.takeover.state is TakeoverState.DRAINING
        await node.takeover.step()
        node.rules.connections = 0
        await node.takeover.step()

    node = Node(Rules())
    node.rules.connections = 2
    asyncio.run(scenario())
    assert (node.rules.count, node.takeover.state) == (0, TakeoverState.REMOVED)
    assert node.takeover.describe()["returns"] == 0
    assert node.takeover.describe()["removed"] == 5


def test_a_refusal_is_told_and_tried_again() -> None:
    node = Node(Rules())
    node.rules.is_refusing = True
    with capture_logs() as logs:
        assert asyncio.run(node.steps(1)) == [30]
    assert [each["error"] for each in logs if each["log_level"] == "error"] == ["rules: refused"]
    node.rules.is_refusing = False
    asyncio.run(node.steps(1))
    assert node.rules.count == 0


def test_one_that_cannot_be_read_does_not_keep_the_others_and_is_told_once() -> None:
    class Unreadable(Rules):
        name = "unreadable"

        async def find(self) -> str:
            raise LeftoverError("unreadable: no answer")

    node = Node(Rules())
    node.takeover._leftovers = (Unreadable(), node.rules)
    with capture_logs() as logs:
        asyncio.run(node.steps(3))
    assert (node.rules.count, node.takeover.state) == (0, TakeoverState.FAILED)
    assert [each["error"] for each in logs if each["log_level"] == "error"] == ["unreadable: no answer"]


@pytest.mark.parametrize("quiet", [1, 3])
def test_a_long_quiet_forgives_former_returns(quiet: int) -> None:
    book = TakeoverBook(PACE)
    assert [book.seen_return(), book.seen_return()] == [30, 60]
    for _ in range(quiet):
        book.seen_nothing()
    assert book.seen_return() == (30 if quiet == PACE.quiet_looks else 100)
