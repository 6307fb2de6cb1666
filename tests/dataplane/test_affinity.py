# SPDX-License-Identifier: Apache-2.0
"""Session affinity with real connections: a client keeps its endpoint, whatever way it comes, while it is there."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from pointsman_enforcer.dataplane.nftables.message import Family
from support.affinity_world import EVERYBODY, NODE_PORT, AffinityWorld
from support.traffic import Reply, probe

pytestmark = pytest.mark.root
CLIENTS = 300


@pytest.fixture(scope="module", params=[Family.IPV4, Family.IPV6], ids=["ip", "ip6"])
def world(request: pytest.FixtureRequest) -> Iterator[AffinityWorld]:
    with AffinityWorld(request.param) as made:
        yield made


@pytest.fixture(autouse=True)
def _forget(world: AffinityWorld) -> Iterator[None]:
    """Each test begins without a Service and without memory."""
    yield
    world.remove()
    world.forget()


def elsewhere(world: AffinityWorld, client: str, *among: str) -> str:
    """An endpoint that the client would not get without memory."""
    return next(name for name in among or EVERYBODY if name != world.picked(client, EVERYBODY))


@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_three_hundred_clients_get_their_picks_and_keep_them(world: AffinityWorld, udp: bool) -> None:
    """The kernel's hash is the one of Python, so every pick is foretold."""
    world.program()
    clients = [world.client(number) for number in range(CLIENTS)]
    first = {client: world.connect(client, udp=udp) for client in clients}
    assert first == {client: world.picked(client, EVERYBODY) for client in clients}
    assert {client: world.connect(client, udp=udp) for client in clients} == first
    assert len(world.known()) == CLIENTS
    assert set(first.values()) == set(EVERYBODY)


def test_all_frontends_of_a_port_share_the_memory(world: AffinityWorld) -> None:
    world.program()
    for number in range(8):
        client = world.client(number)
        kept = elsewhere(world, client)
        world.seed(world.remembered_as(client, kept))
        ways = [(world.at.cluster_ip, 80), (world.at.node, NODE_PORT), (world.at.load_balancer, 80)]
        assert [world.connect(client, *way) for way in ways] == [kept] * 3


def test_a_first_connection_to_the_node_port_decides_for_the_cluster_ip(world: AffinityWorld) -> None:
    world.program(("a", "b"), local=("b",))
    client = next(client for client in map(world.client, range(50)) if world.picked(client, ("a", "b")) == "a")
    assert world.connect(client, world.at.node, NODE_PORT) == "b"
    assert world.connect(client) == "b"


def test_ports_and_protocols_are_independent(world: AffinityWorld) -> None:
    world.program()
    client = world.client(1)
    kept = elsewhere(world, client)
    world.seed(world.remembered_as(client, kept))
    assert world.connect(client) == kept
    picked = world.picked(client, EVERYBODY)
    assert [world.connect(client, port=81), world.connect(client, udp=True)] == [picked, picked]


def test_clients_of_an_endpoint_that_leaves_choose_again_and_no_others_move(world: AffinityWorld) -> None:
    world.program()
    clients = [world.client(number) for number in range(100)]
    before = {client: world.connect(client) for client in clients}
    rest = ("a", "b", "d")
    world.program(rest)
    after = {client: world.connect(client) for client in clients}
    moved = {client for client in clients if after[client] != before[client]}
    assert moved == {client for client in clients if before[client] == "c"}
    assert moved
    assert {client: after[client] for client in moved} == {client: world.picked(client, rest) for client in moved}


def test_an_endpoint_that_takes_the_place_of_another_does_not_take_its_clients(world: AffinityWorld) -> None:
    world.program(("a", "b", "c"))
    clients = [world.client(number) for number in range(100)]
    before = {client: world.connect(client) for client in clients}
    world.program(("a", "b", "d"))
    after = {client: world.connect(client) for client in clients}
    orphans = [client for client in clients if before[client] == "c"]
    assert {client: name for client, name in after.items() if client not in orphans} == {
        client: name for client, name in before.items() if client not in orphans
    }
    assert {client: after[client] for client in orphans} == {
        client: world.picked(client, ("a", "b", "d")) for client in orphans
    }


def test_an_endpoint_that_comes_moves_nobody_and_gets_new_clients(world: AffinityWorld) -> None:
    world.program(("a", "b", "c"))
    clients = [world.client(number) for number in range(100)]
    before = {client: world.connect(client) for client in clients}
    world.program(EVERYBODY)
    assert {client: world.connect(client) for client in clients} == before
    fresh = [world.client(number) for number in range(100, 160)]
    assert "d" in {world.connect(client) for client in fresh}


def test_no_endpoints_and_back_again(world: AffinityWorld) -> None:
    world.program()
    before = {client: world.connect(client) for client in map(world.client, range(20))}
    world.remove()
    world.program()
    assert {client: world.connect(client) for client in before} == before


def test_a_service_at_the_address_of_one_that_is_gone_does_not_take_its_clients(world: AffinityWorld) -> None:
    world.program()
    client = world.client(0)
    world.seed(world.remembered_as(client, kept := elsewhere(world, client)))
    assert world.connect(client) == kept
    world.remove()
    world.program()
    assert world.connect(client) == world.picked(client, EVERYBODY)


def test_changes_under_traffic_lose_no_connection_and_move_nobody(world: AffinityWorld) -> None:
    """One client stays with an endpoint that is always there; every other connection is a client's first."""
    world.program(("a", "b", "c"))
    client = world.client(0)
    world.seed(world.remembered_as(client, "a"))
    stop = threading.Event()
    kept: set[str] = set()
    lost: list[object] = []

    def connect() -> None:
        for number in itertools.count(1):
            if stop.is_set():
                return
            kept.add(world.connect(client))
            reply = probe(world.world.client, world.at.cluster_ip, 80, source=world.client(number % 60_000))
            if not isinstance(reply, Reply):
                lost.append(reply)

    thread = threading.Thread(target=connect)
    thread.start()
    try:
        for number in range(150):
            world.program(EVERYBODY if number % 2 else ("a", "c"))
    finally:
        stop.set()
        thread.join()
    assert kept == {"a"}
    assert lost == []


def test_local_policy_remembers_within_the_local_set(world: AffinityWorld) -> None:
    """Outsiders get the local set by node port and load balancer address, and all endpoints by the cluster IP."""
    world.program(EVERYBODY, local=("a", "b"))
    for number in range(30):
        client = world.client(number)
        kept = elsewhere(world, client, "c", "d")
        world.seed(world.remembered_as(client, kept))
        assert world.connect(client) == kept
        local = world.connect(client, world.at.node, NODE_PORT)
        assert local == world.picked(client, ("a", "b"))
        ways = [(world.at.load_balancer, 80), (world.at.cluster_ip, 80), (world.at.node, NODE_PORT)]
        assert [world.connect(client, *way) for way in ways] == [local] * 3


def test_weights_of_first_picks_are_honoured(world: AffinityWorld) -> None:
    weights = {"a": 3, "b": 1}
    world.program(("a", "b"), weights=weights)
    clients = [world.client(number) for number in range(CLIENTS)]
    names = Counter(world.connect(client) for client in clients)
    assert names == Counter(world.picked(client, ("a", "b"), weights) for client in clients)
    assert names["a"] > 2 * names["b"]


def test_the_priority_that_carries_the_choice_is_taken_back(world: AffinityWorld) -> None:
    """Packets leave with priority 0; a rule of the test's own counts those that do not."""
    node = world.world.node
    world.program()
    node.run("nft", "-f", "-", stdin="""
        table inet spy {
            chain out { type filter hook postrouting priority 200;
                meta priority & 0xc0000000 == 0xc0000000 counter comment "ours"
                meta priority none counter comment "none"
            }
        }""")  # fmt: skip
    try:
        for number in range(5):
            world.connect(world.client(number))
        listing = node.run("nft", "list", "table", "inet", "spy")
    finally:
        node.run("nft", "delete", "table", "inet", "spy")
    ours, none = (line for line in listing.splitlines() if "counter" in line)
    assert "packets 0 " in ours
    assert "packets 0 " not in none


def test_two_nodes_choose_alike_whatever_they_went_through() -> None:
    with AffinityWorld(Family.IPV4) as one, AffinityWorld(Family.IPV4) as two:
        one.program(EVERYBODY)
        for step in (("b",), ("b", "c"), ("d", "c"), EVERYBODY):
            two.program(step)
        clients = [one.client(number) for number in range(60)]
        assert [one.connect(client) for client in clients] == [two.connect(client) for client in clients]
