# SPDX-License-Identifier: Apache-2.0
"""Real enforcers among real planners: they end at their owner, move when it drains, and go on when it dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from pointsman_planner.core.messages import AckLevel
from pointsman_planner.core.ownership import Member
from support.cluster_objects import endpoint, endpoint_slice, node, service
from support.enforcer_node import Node
from support.plan_server import PlanServer, eventually, plan_server

NAMES = ("planner-a", "planner-b", "planner-c")


class Planners:
    """Three planners that know of each other and of the same cluster."""

    def __init__(self) -> None:
        self.servers: dict[str, PlanServer] = {}
        self.stacks: dict[str, AsyncExitStack] = {}

    def put(self, number: int) -> None:
        """One more service, seen by all."""
        for server in self.servers.values():
            server.put(
                node("node-1", "192.168.0.2"),
                service(f"shop/svc-{number}", f"10.96.0.{number}", ports=["p:80"]),
                endpoint_slice(f"shop/svc-{number}-x", f"svc-{number}", [endpoint("10.1.0.1", node="z")], ["p:80"]),
            )

    def tell_members(self) -> None:
        """Everybody who is left knows who is left."""
        members = [Member(planner_id=name, address=server.address) for name, server in self.servers.items()]
        for server in self.servers.values():
            server.handover.set_members(members)

    @property
    def order(self) -> list[str]:
        """The planners of the node, best first."""
        anyone = next(iter(self.servers.values()))
        return [member.planner_id for member in anyone.handover.candidates("node-1")]

    def serving(self) -> list[str]:
        """Who has proof that the node's kernel has its plan."""
        return [name for name, server in self.servers.items() if server.is_converged("node-1")]

    async def kill(self, name: str) -> None:
        """A planner is gone."""
        del self.servers[name]
        await self.stacks.pop(name).aclose()


@asynccontextmanager
async def planners() -> AsyncIterator[Planners]:
    made = Planners()
    async with AsyncExitStack() as all_of_them:
        for name in NAMES:
            made.stacks[name] = await all_of_them.enter_async_context(AsyncExitStack())
            made.servers[name] = await made.stacks[name].enter_async_context(plan_server(planner_id=name))
        made.put(1)
        made.tell_members()
        yield made


async def test_an_enforcer_that_knows_any_planner_ends_at_its_owner(tmp_path: Path) -> None:
    async with planners() as made:
        owner, _, last = made.order
        async with Node(tmp_path).enforcer(made.servers[last].address):
            await eventually(lambda: made.serving() == [owner], "the owner serves, and nobody else")


async def test_a_planner_is_told_what_was_read_back_from_the_kernel(tmp_path: Path) -> None:
    async with planners() as made:
        [owner, *_] = made.order
        async with Node(tmp_path).enforcer(made.servers[owner].address):
            await eventually(lambda: made.serving() == [owner], "the owner serves")
            session = made.servers[owner].planner.sessions["node-1"]
            await eventually(lambda: session.reached.nonce(AckLevel.VERIFIED) > 0, "all of it was verified")
            verified = next(each for each in session.reached if each.level is AckLevel.VERIFIED)
            assert verified.digest == made.servers[owner].planner.digest("node-1")
            assert session.is_converged


async def test_a_drained_owner_loses_no_change_and_the_kernel_no_service(tmp_path: Path) -> None:
    held = Node(tmp_path)
    async with planners() as made:
        owner, second, _ = made.order
        async with held.enforcer(made.servers[owner].address):
            await eventually(lambda: made.serving() == [owner], "the owner serves")
            server = made.servers[owner]
            draining = asyncio.create_task(server.handover.drain(lambda: server.plans.streams, period_seconds=10.0))
            for number in range(2, 12):
                made.put(number)
                await asyncio.sleep(0)
                assert "10.96.0.1" in held.vips()
            await draining
            await eventually(lambda: made.serving() == [second], "the second candidate serves, and nobody else")
            assert held.vips() == {f"10.96.0.{number}" for number in range(1, 12)}
            assert held.kernel.counters.failed_commits == 0


async def test_a_node_whose_planners_die_one_by_one_is_served_by_the_last(tmp_path: Path) -> None:
    held = Node(tmp_path)
    async with planners() as made:
        owner = made.order[0]
        async with held.enforcer(made.servers[owner].address):
            await eventually(lambda: made.serving() == [owner], "the owner serves")
            for left in (2, 1):
                await made.kill(made.serving()[0])
                assert len(made.servers) == left
                await eventually(lambda: len(made.serving()) == 1, "another serves, though it is not the owner")
            made.tell_members()
            made.put(2)
            await eventually(lambda: held.vips() == {"10.96.0.1", "10.96.0.2"}, "and brings what is new")
