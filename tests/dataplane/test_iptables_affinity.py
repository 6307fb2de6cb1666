# SPDX-License-Identifier: Apache-2.0
"""Session affinity of iptables mode: more clients than `recent` holds, read, shared, seeded and given back."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import pytest

from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_enforcer.dataplane.xtables.tools import Variant
from pointsman_model.names import Protocol, format_address
from support.affinity_world import EVERYBODY, NODE_PORT
from support.iptables_affinity_world import IptablesAffinityWorld

pytestmark = pytest.mark.root
CLIENTS = 150
"""The list of `recent`, which kube-proxy uses, ends at 100."""
WORLDS = [(Variant.LEGACY, Family.IPV4), (Variant.NFT, Family.IPV6)]


@pytest.fixture(scope="module", params=WORLDS, ids=["legacy-ip", "nft-ip6"])
def world(request: pytest.FixtureRequest) -> Iterator[IptablesAffinityWorld]:
    with IptablesAffinityWorld(*request.param) as made:
        yield made


@pytest.fixture(autouse=True)
def _forget(world: IptablesAffinityWorld) -> Iterator[None]:
    """Each test begins without a Service and without memory."""
    yield
    world.remove()
    world.forget()


def other(name: str) -> str:
    return next(each for each in EVERYBODY if each != name)


def kept_by(world: IptablesAffinityWorld) -> dict[str, tuple[bytes, int]]:
    """The endpoint of each client of the first TCP port."""
    known = [each for each in world.known() if (each.name, each.protocol) == ("0", Protocol.TCP)]
    assert len(known) == len({each.client for each in known}), "nobody is in two sets"
    return {format_address(each.client): each.endpoint for each in known}


def test_more_than_a_hundred_clients_keep_their_endpoints(world: IptablesAffinityWorld) -> None:
    world.program()
    clients = [world.client(number) for number in range(CLIENTS)]
    first = {client: world.connect(client) for client in clients}
    assert set(first.values()) == set(EVERYBODY)
    assert {client: world.connect(client) for client in clients} == first
    assert kept_by(world) == {client: world.endpoint(name)[:2] for client, name in first.items()}


def test_all_frontends_of_a_port_share_the_memory_and_each_port_has_its_own(world: IptablesAffinityWorld) -> None:
    world.program()
    for number in range(8):
        client = world.client(number)
        kept = world.connect(client)
        ways = [(world.at.cluster_ip, 80), (world.at.node, NODE_PORT), (world.at.load_balancer, 80)]
        assert [world.connect(client, *way) for way in ways] == [kept] * 3
    assert len(kept_by(world)) == len(world.known()) == 8


def test_seeds_are_remembered_by_the_kernel_and_read_back(world: IptablesAffinityWorld) -> None:
    world.program()
    seeds = [
        world.remembered_as(world.client(number), name, left_ms=100_000, port=port)
        for number, (name, port) in enumerate(itertools.product(EVERYBODY, ("0", "1")))
    ]
    assert world.seed(*seeds) == len(seeds)
    read = sorted(world.known())
    assert [each[:4] for each in read] == [each[:4] for each in sorted(seeds)]
    assert all(90_000 < each.left_ms <= 100_000 for each in read)
    for number, name in enumerate(EVERYBODY):
        assert world.connect(world.client(2 * number)) == name


def test_a_seed_does_not_move_a_client_that_is_known_here(world: IptablesAffinityWorld) -> None:
    world.program()
    known, new = world.client(1), world.client(2)
    here = world.connect(known)
    assert world.seed(*(world.remembered_as(client, other(here)) for client in (known, new))) == 1
    assert world.connect(known) == here
    assert world.connect(new) == other(here)


def test_a_seed_lengthens_the_time_of_the_same_endpoint_and_never_shortens_it(world: IptablesAffinityWorld) -> None:
    world.program()
    client = world.client(1)
    assert world.seed(world.remembered_as(client, "b", left_ms=60_000)) == 1
    assert world.seed(world.remembered_as(client, "b", left_ms=30_000)) == 0
    assert world.seed(world.remembered_as(client, "c", left_ms=300_000)) == 0
    assert world.seed(world.remembered_as(client, "b", left_ms=300_000)) == 1
    [known] = world.known()
    assert known.endpoint == world.endpoint("b")[:2]
    assert 250_000 < known.left_ms <= 300_000


def test_a_seed_for_an_endpoint_that_is_not_here_is_left_out(world: IptablesAffinityWorld) -> None:
    world.program(("a", "b"))
    assert world.seed(world.remembered_as(world.client(1), "c")) == 0
    assert world.known() == []


def test_a_client_that_connects_while_it_is_seeded_keeps_what_it_drew(world: IptablesAffinityWorld) -> None:
    world.program()
    client = world.client(1)
    here = ""
    memory = world.dataplane.affinity
    write = memory._write

    async def connects_first(lines: object) -> None:
        nonlocal here
        memory._write = write  # type: ignore[method-assign]  # once
        here = await asyncio.to_thread(world.connect, client)
        await write(lines)  # type: ignore[arg-type]  # handed through

    memory._write = connects_first  # type: ignore[method-assign]  # a connection between reading and adding
    for name in (name for name in EVERYBODY if not here or name != here):
        taken = world.seed(world.remembered_as(client, name))
        if here != name:
            assert taken == 0
        assert kept_by(world) == {client: world.endpoint(here)[:2]}
    assert world.connect(client) == here


def test_who_is_taken_out_by_somebody_else_is_given_back(world: IptablesAffinityWorld) -> None:
    world.program()
    clients = [world.client(number) for number in range(20)]
    for client in clients:
        world.connect(client)
    before = kept_by(world)
    for name in world.sets():
        world.world.node.run("ipset", "flush", name)
    stays = world.connect(clients[0])
    expected = {**before, clients[0]: world.endpoint(stays)[:2]}
    assert kept_by(world) == expected


def test_clients_of_an_endpoint_that_leaves_choose_again_and_no_others_move(world: IptablesAffinityWorld) -> None:
    world.program()
    clients = [world.client(number) for number in range(40)]
    first = {client: world.connect(client) for client in clients}
    world.program(("a", "b", "c"))
    second = {client: world.connect(client) for client in clients}
    assert {client for client in clients if first[client] != second[client]} == {
        client for client in clients if first[client] == "d"
    }


def test_a_restarted_enforcer_moves_nobody(world: IptablesAffinityWorld) -> None:
    world.program()
    clients = [world.client(number) for number in range(20)]
    first = {client: world.connect(client) for client in clients}
    world.restart()
    assert {client: world.connect(client) for client in clients} == first
