# SPDX-License-Identifier: Apache-2.0
"""Somebody else takes the kernel's memory of clients, with the tables or alone: whoever was seen last comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from pointsman_enforcer.dataplane.affinity import AffinityClient, Look
from pointsman_enforcer.dataplane.drift import DriftOutcome
from pointsman_enforcer.dataplane.nftables import affinity_keeper
from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_model.names import format_address
from pointsman_model.plan import ServicePlan
from support.affinity_world import EVERYBODY, AffinityWorld
from support.drift_world import DriftNode, drift_node
from support.enforcer_plans import key, numbered

pytestmark = pytest.mark.root
CLIENTS = 20
DAMAGE = {
    "the memory alone": "flush map {family} pointsman affinity",
    "one client": "delete element {family} pointsman affinity {{ {number} . {client} }}",
    "the table": "delete table {family} pointsman",
    "the whole ruleset": "flush ruleset",
    "an empty table of our name": "delete table {family} pointsman\nadd table {family} pointsman",
    "so much that everything is replaced": """delete chain {family} pointsman nat-output
        add chain {family} pointsman nat-output {{ type nat hook output priority -50; }}
        flush map {family} pointsman affinity""",
    "the map itself": """flush chain {family} pointsman services
        flush table {family} pointsman
        delete map {family} pointsman affinity""",
}


@pytest.fixture(scope="module", params=[Family.IPV4, Family.IPV6], ids=["ip", "ip6"])
def world(request: pytest.FixtureRequest) -> Iterator[AffinityWorld]:
    with AffinityWorld(request.param) as made:
        yield made


class Remembering:
    """A node with the world's Service, and clients that it remembers elsewhere than they would go without memory."""

    def __init__(self, world: AffinityWorld, node: DriftNode) -> None:
        self.world, self.node = world, node
        self.clients = [world.client(number) for number in range(CLIENTS)]
        self.kept = {
            client: next(name for name in EVERYBODY if name != world.picked(client, EVERYBODY))
            for client in self.clients
        }
        self.plan = world.service()

    async def begin(self) -> None:
        self.node.plan({key("other"): numbered(7), key("sticky"): self.plan})
        await self.node.programmed()
        clients = [self.world.remembered_as(client, name, left_ms=300_000) for client, name in self.kept.items()]
        assert await self.seed(*clients) == CLIENTS
        assert await self.look() == Look(clients=CLIENTS, is_whole=True)

    @property
    def rendering(self) -> bytes:
        return self.node.reconciler.rendering(key("sticky"))

    async def seed(self, *clients: AffinityClient) -> int:
        return await self.node.dataplane.affinity.seed(self.plan, self.rendering, clients)

    async def look(self) -> Look | None:
        return await self.node.dataplane.affinity.look()

    def known(self) -> list[AffinityClient]:
        """As of the last look."""
        return list(self.node.dataplane.affinity.clients(self.plan, self.rendering))

    async def number(self) -> str:
        """`ID:0` of the first port, as nft prints it."""
        listing = await asyncio.to_thread(
            self.node.namespace.run, "nft", "list", "map", self.world.world.family.keyword, "pointsman", "affinity"
        )
        return listing.partition("elements = { ")[2].split(" . ")[0].strip()


@asynccontextmanager
async def remembering(world: AffinityWorld) -> AsyncIterator[Remembering]:
    async with drift_node(world.world.node) as node:
        made = Remembering(world, node)
        await made.begin()
        yield made
        refused = [str(error) for error in node.failures]
        assert not any("affinity" in each or "clients" in each for each in refused), refused


def connected(world: AffinityWorld, clients: list[str]) -> dict[str, str]:
    return {client: world.connect(client) for client in clients}


@pytest.mark.parametrize("what", DAMAGE)
async def test_remembered_clients_come_back_and_connect_where_they_did(world: AffinityWorld, what: str) -> None:
    async with remembering(world) as made:
        damage = DAMAGE[what].format(
            family=world.world.family.keyword, client=made.clients[0], number=await made.number()
        )
        await made.node.nft(damage)
        look = await made.node.looked(1)
        assert look.outcome in (DriftOutcome.REPAIRED, DriftOutcome.REBUILT)
        assert await made.look() == Look(clients=CLIENTS, is_whole=True)
        assert {format_address(each.client): each.is_pick for each in made.known()} == dict.fromkeys(
            made.clients, False
        )
        assert all(0 < each.left_ms <= 300_000 for each in made.known())
        assert await asyncio.to_thread(connected, world, made.clients) == made.kept


async def test_a_look_after_the_flush_and_before_the_repair_forgets_nobody(world: AffinityWorld) -> None:
    async with remembering(world) as made:
        # Not awaited: while the loop stands still nothing is repaired.
        made.node.namespace.run("nft", f"flush map {world.world.family.keyword} pointsman affinity")
        assert await made.look() is None
        assert len(made.known()) == CLIENTS
        await made.node.looked(1)
        assert await made.look() == Look(clients=CLIENTS, is_whole=True)


async def test_a_look_and_a_repair_at_the_same_time_do_not_disturb_each_other(world: AffinityWorld) -> None:
    async with remembering(world) as made:
        for count in range(1, 6):
            await made.node.nft(f"flush map {world.world.family.keyword} pointsman affinity")
            while len(made.node.looks) < count:
                await asyncio.gather(made.look(), made.look(), asyncio.sleep(0.001))
        await made.node.until(lambda: not made.node.reconciler.drift.is_due, "a repair is owed")
        assert await made.look() == Look(clients=CLIENTS, is_whole=True)


async def test_a_seed_leaves_the_time_of_a_client_that_is_known(world: AffinityWorld) -> None:
    async with remembering(world) as made:
        client = made.clients[0]
        again = world.remembered_as(client, made.kept[client], left_ms=1000)
        new = world.remembered_as(world.client(CLIENTS), "a", left_ms=50_000)
        assert await made.seed(again, new) == 1
        assert await made.look() == Look(clients=CLIENTS + 1, is_whole=True)
        left = {format_address(each.client): each.left_ms for each in made.known()}
        assert left[client] > 50_000


async def test_who_was_forgotten_in_time_does_not_come_back(world: AffinityWorld) -> None:
    async with remembering(world) as made:
        assert await made.seed(world.remembered_as(world.client(CLIENTS), "a", left_ms=500)) == 1
        assert await made.look() == Look(clients=CLIENTS + 1, is_whole=True)
        await made.node.until(lambda: len(made.known()) == CLIENTS, "its time passes")
        await made.node.nft(f"delete table {world.world.family.keyword} pointsman")
        await made.node.looked(1)
        assert await made.look() == Look(clients=CLIENTS, is_whole=True)


async def test_clients_of_a_service_that_is_gone_are_not_brought_back(world: AffinityWorld) -> None:
    async with remembering(world) as made:
        made.node.plan({key("other"): numbered(7)})
        await made.node.programmed()
        assert not made.node.dataplane.affinity.is_wanted
        await made.node.nft("flush ruleset")
        await made.node.looked(1)
        assert await made.look() == Look(clients=0, is_whole=True)


def test_a_look_reads_no_more_than_it_may_and_the_next_one_begins_anew(
    world: AffinityWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(affinity_keeper, "LOOK_CLIENTS_MAX", 1000)

    async def look_twice() -> None:
        async with drift_node(world.world.node) as node:
            plan: ServicePlan = world.service()
            node.plan({key("sticky"): plan})
            await node.programmed()
            clients = [world.remembered_as(world.client(number), "a") for number in range(3000)]
            rendering = node.reconciler.rendering(key("sticky"))
            assert await node.dataplane.affinity.seed(plan, rendering, clients) == len(clients)
            for _ in range(2):
                look = await node.dataplane.affinity.look()
                assert look is not None
                assert 1000 <= look.clients < 3000
                assert not look.is_whole

    world.world.node.call(lambda: asyncio.run(look_twice()))
