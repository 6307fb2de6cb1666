# SPDX-License-Identifier: Apache-2.0
"""Which endpoint a connection through the proxy gets."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from pointsman_enforcer.dataplane.userspace.choice import AffinityTable, Balancer
from pointsman_enforcer.dataplane.userspace.target import Address, Target
from pointsman_model.affinity import pick
from pointsman_model.plan import PlanEndpoint

CLIENTS = [bytes((203, 0, 113, number)) for number in range(1, 60)]
THREE = tuple(PlanEndpoint(bytes((10, 0, 0, number)), 80) for number in (1, 2, 3))


def place(endpoint: PlanEndpoint) -> Address:
    return endpoint.address, endpoint.port


def target(endpoints: tuple[PlanEndpoint, ...] = THREE, affinity_seconds: int = 0) -> Target:
    return Target(b"12345678", affinity_seconds, endpoints)


def first(balancer: Balancer, client: bytes, now: float = 0.0) -> Address:
    chosen = next(balancer.attempts(client, now))
    balancer.reached(client, chosen, now)
    return chosen


def test_endpoints_take_turns() -> None:
    balancer = Balancer(target(), AffinityTable())
    assert [first(balancer, CLIENTS[0]) for _ in range(6)] == [place(each) for each in THREE] * 2


def test_weights_are_shares_of_each_turn_and_spread_over_it() -> None:
    heavy, light = THREE[0]._replace(weight=30), THREE[1]._replace(weight=10)
    balancer = Balancer(target((heavy, light)), AffinityTable())
    turn = [first(balancer, CLIENTS[0]) for _ in range(8)]
    assert Counter(turn) == {place(heavy): 6, place(light): 2}
    assert Counter(turn[:4]) == Counter(turn[4:])


def test_who_was_tried_is_not_tried_again_before_everybody_was() -> None:
    balancer = Balancer(target(affinity_seconds=60), AffinityTable())
    tried = list(islice(balancer.attempts(CLIENTS[0], 0.0), 6))
    assert sorted(tried[:3]) == [place(each) for each in THREE]
    assert sorted(tried[3:]) == [place(each) for each in THREE]


def test_a_client_nobody_remembers_gets_the_pick_of_every_mode() -> None:
    balancer = Balancer(target(affinity_seconds=60), AffinityTable())
    assert [first(balancer, each) for each in CLIENTS] == [place(pick(each, THREE)) for each in CLIENTS]


def test_a_client_keeps_its_endpoint_when_picks_change_and_each_connection_renews_the_time() -> None:
    memory = AffinityTable()
    one = Balancer(target(THREE[:1], affinity_seconds=60), memory)
    assert first(one, CLIENTS[0], 0.0) == place(THREE[0])
    other = next(each for each in THREE[1:])
    moved = next(each for each in CLIENTS if place(pick(each, THREE)) != place(THREE[0]))
    first(one, moved, 0.0)
    three = Balancer(target(affinity_seconds=60), memory)
    assert first(three, moved, 50.0) == place(THREE[0])
    assert first(three, moved, 109.0) == place(THREE[0])
    assert first(three, moved, 170.0) == place(pick(moved, THREE))
    assert other in THREE


def test_an_endpoint_that_left_is_not_kept() -> None:
    memory = AffinityTable()
    first(Balancer(target(THREE[:1], affinity_seconds=60), memory), CLIENTS[0])
    left = Balancer(target(THREE[1:], affinity_seconds=60), memory)
    assert first(left, CLIENTS[0]) == place(pick(CLIENTS[0], THREE[1:]))


def test_two_sets_of_a_port_share_the_memory() -> None:
    memory = AffinityTable()
    wide, narrow = Balancer(target(affinity_seconds=60), memory), Balancer(target(THREE[1:], 60), memory)
    for client in CLIENTS:
        chosen = first(wide, client)
        if chosen in narrow.members:
            assert first(narrow, client) == chosen


def test_a_full_memory_forgets_who_has_not_come_for_the_longest_time() -> None:
    memory = AffinityTable(clients_max=2)
    for now, client in enumerate((CLIENTS[0], CLIENTS[1], CLIENTS[0], CLIENTS[2])):
        memory.remember(client, place(THREE[0]), now + 60.0)
    assert [client for client, _ in memory.clients()] == [CLIENTS[0], CLIENTS[2]]
    memory.forget_expired(62.5)
    assert [client for client, _ in memory.clients()] == [CLIENTS[2]]
