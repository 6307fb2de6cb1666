# SPDX-License-Identifier: Apache-2.0
"""The kernel's memory of clients: it expires, is renewed by connections, outlives restarts, can be read and seeded."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from pointsman_enforcer.dataplane.nftables import layout
from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_model.names import format_address
from support.affinity_world import EVERYBODY, AffinityWorld

pytestmark = pytest.mark.root
PATIENCE_SECONDS = 20.0


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


def elsewhere(world: AffinityWorld, client: str) -> str:
    """An endpoint that the client would not get without memory."""
    return next(name for name in EVERYBODY if name != world.picked(client, EVERYBODY))


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS} s: {what}"
        time.sleep(0.05)


def test_a_client_that_stays_away_is_forgotten_and_gets_its_pick(world: AffinityWorld) -> None:
    world.program(seconds=1)
    client = world.client(1)
    world.seed(world.remembered_as(client, elsewhere(world, client), left_ms=1000))
    until(lambda: not world.known(), "the client is forgotten")
    assert world.connect(client) == world.picked(client, EVERYBODY)


def test_each_new_connection_renews_the_memory(world: AffinityWorld) -> None:
    """It is connected to for longer than it would be remembered without; how long that takes does not matter."""
    world.program(seconds=600)
    client = world.client(2)
    kept = elsewhere(world, client)
    world.seed(world.remembered_as(client, kept, left_ms=30_000))
    assert world.known()[0].left_ms <= 30_000
    assert world.connect(client) == kept
    (known,) = world.known()
    assert 30_000 < known.left_ms <= 600_000


def test_a_packet_that_begins_no_connection_renews_nothing(world: AffinityWorld) -> None:
    world.program(seconds=600)
    client = world.client(3)
    with world.talking(client) as exchange:
        exchange()
        left = [known.left_ms for known in world.known()]
        until(lambda: world.known()[0].left_ms < left[0] - 50, "time passes")
        exchange()
        assert world.known()[0].left_ms < left[0] - 50


def test_a_shorter_timeout_counts_from_the_next_connection_on(world: AffinityWorld) -> None:
    world.program(seconds=600)
    client = world.client(4)
    kept = elsewhere(world, client)
    world.seed(world.remembered_as(client, kept))
    world.program(seconds=60)
    assert world.connect(client) == kept
    assert world.known()[0].left_ms <= 60_000


def test_a_restarted_enforcer_moves_nobody(world: AffinityWorld) -> None:
    world.program()
    clients = [world.client(number) for number in range(50)]
    kept = {client: elsewhere(world, client) for client in clients}
    assert world.seed(*(world.remembered_as(client, name) for client, name in kept.items())) == len(clients)
    elements = world.listed_elements()
    world.restart()
    assert world.listed_elements() == elements
    assert {client: world.connect(client) for client in clients} == kept
    world.program(("a", "b", "c"))
    gone = {client for client, name in kept.items() if name == "d"}
    assert {client for client in clients if world.connect(client) != kept[client]} == gone


def test_seeds_are_remembered_by_the_kernel_and_read_back(world: AffinityWorld) -> None:
    world.program()
    seeds = [
        world.remembered_as(world.client(number), name, left_ms=100_000, port=port)
        for number, (name, port) in enumerate(itertools.product(EVERYBODY, ("0", "1")))
    ]
    assert world.seed(*seeds) == len(seeds)
    read = sorted(world.known())
    assert [each[:4] for each in read] == [each[:4] for each in sorted(seeds)]
    assert all(0 < each.left_ms <= 100_000 for each in read)


def test_a_seed_does_not_move_a_client_that_is_known_here(world: AffinityWorld) -> None:
    world.program()
    known, new = world.client(1), world.client(2)
    here = world.connect(known)
    seeds = [world.remembered_as(client, elsewhere(world, client)) for client in (known, new)]
    assert world.seed(*seeds) == 1
    assert world.connect(known) == here
    assert world.connect(new) == elsewhere(world, new)


def test_a_seed_for_the_endpoint_that_a_client_has_lets_it_be_remembered_for_longer_and_never_shorter(
    world: AffinityWorld,
) -> None:
    world.program()
    clients = [world.client(number) for number in range(1, 4)]
    kept = {client: elsewhere(world, client) for client in clients}
    world.seed(*(world.remembered_as(client, kept[client], left_ms=60_000) for client in clients))
    longer = [world.remembered_as(client, kept[client], left_ms=300_000) for client in clients[:2]]
    other = world.remembered_as(clients[2], world.picked(clients[2], EVERYBODY), left_ms=300_000)
    assert world.seed(*longer, other) == 2
    left = {format_address(each.client): each.left_ms for each in world.known()}
    assert all(60_000 < left[client] <= 300_000 for client in clients[:2])
    assert left[clients[2]] <= 60_000
    assert world.seed(*(world.remembered_as(client, kept[client], left_ms=30_000) for client in clients)) == 0
    assert all(each.left_ms > 30_000 for each in world.known())
    assert {client: world.connect(client) for client in clients} == kept


def test_a_seed_for_an_endpoint_that_is_gone_is_left_out(world: AffinityWorld) -> None:
    world.program(("a", "b"))
    client = world.client(1)
    assert world.seed(world.remembered_as(client, "d"), world.remembered_as(client, "a", port="no such port")) == 0
    assert world.known() == []


def test_exceptions_are_the_clients_that_a_node_without_memory_would_send_elsewhere(world: AffinityWorld) -> None:
    world.program()
    usual, exception = world.client(1), world.client(2)
    world.connect(usual)
    world.seed(world.remembered_as(exception, elsewhere(world, exception)))
    assert {format_address(each.client): each.is_pick for each in world.known()} == {usual: True, exception: False}


def test_stock_nft_lists_the_memory(world: AffinityWorld) -> None:
    world.program()
    clients = [world.client(number) for number in range(3)]
    for client in clients:
        world.connect(client)
    listing = world.world.node.run("nft", "list", "ruleset")
    table = listing.partition(f"table {world.world.family.keyword} pointsman")[2]
    memory = table.partition("map affinity {")[2].partition("}")[0]
    assert all(client in memory for client in clients)
    assert "expires" in memory
    assert "size 1048576" in memory


def test_a_full_memory_sends_new_clients_to_their_picks_without_remembering(monkeypatch: pytest.MonkeyPatch) -> None:
    small = tuple(replace(spec, size=4) if spec is layout.AFFINITY else spec for spec in layout.ALL_SETS)
    monkeypatch.setattr(layout, "ALL_SETS", small)
    with AffinityWorld(Family.IPV4) as world:
        world.program()
        clients = [world.client(number) for number in range(12)]
        picks = [world.picked(client, EVERYBODY) for client in clients]
        assert [world.connect(client) for client in clients] == picks
        assert [world.connect(client) for client in clients] == picks
        assert len(world.known()) == 4
