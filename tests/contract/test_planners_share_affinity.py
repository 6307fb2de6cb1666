# SPDX-License-Identifier: Apache-2.0
"""Session affinity between nodes, the planners' side: one node's exceptions reach all others, by a store in between."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_model.cluster import key_of
from pointsman_model.names import Protocol, ServiceKey, ServicePortName, parse_address
from pointsman_model.remembered import ClientKey
from pointsman_planner.store import affinity_store
from pointsman_planner.store.affinity_store import text_of
from pointsman_planner.store.memory_store import MemoryStore
from pointsman_planner.store.port import Area, Store
from support.affinity_server import PORT, client, objects, sharing
from support.cluster_objects import endpoint, endpoint_slice
from support.model_enforcer import ModelEnforcer
from support.plan_server import eventually
from support.planner_stores import redis_store
from support.redis_server import RedisServer, redis_server

A, B = "10.1.0.1", "10.1.0.2"
AREA = "{test}:area:affinity"
MakeStore = Callable[[], Store]


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with redis_server(tmp_path) as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
async def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MakeStore]:
    if request.param == "memory":
        shared = MemoryStore()
        yield lambda: shared
        return
    async with redis_server(tmp_path) as server:
        yield lambda: redis_store(server.url)


def number(index: int) -> str:
    return f"203.0.{index >> 8}.{index & 255}"


async def test_what_one_node_reports_reaches_the_nodes_of_all_planners(make_store: MakeStore) -> None:
    async with sharing(make_store) as cluster:
        first, neighbour, far = [await cluster.connect(f"node-{each}", each // 3) for each in (1, 2, 3)]
        await first.report(client("203.0.113.1", A), client("203.0.113.2", B, seconds=30))
        expected = {"203.0.113.1": A, "203.0.113.2": B}
        await eventually(lambda: neighbour.told == far.told == expected, "all nodes are told")
        assert 20_000 < far.left_ms("203.0.113.2") <= 30_000


async def test_a_node_that_comes_later_is_told_of_all_of_them_once_it_is_in_sync(make_store: MakeStore) -> None:
    clients = [client(number(each), A) for each in range(2500)]
    async with sharing(make_store) as cluster:
        first = await cluster.connect("node-1")
        await first.report(*clients)
        await eventually(lambda: len(cluster.planners[1].held) == len(clients), "they are known")
        later = await cluster.connect("node-2", 1)
        await eventually(lambda: len(later.told) == len(clients), "all are told")
        kinds = [each.ListFields()[0][0].name for each in later.stream.responses]
        assert kinds.index("affinity") > kinds.index("transaction")
        assert max(map(len, later.messages)) <= 1000
        assert sum(map(len, later.messages)) == len(clients)


async def test_a_node_that_does_not_take_them_is_sent_none(make_store: MakeStore) -> None:
    async with sharing(make_store, planners=1) as cluster:
        first, old, other = (
            await cluster.connect("node-1"),
            await cluster.connect("node-2", kind=ModelEnforcer),
            await cluster.connect("node-3"),
        )
        await first.report(client("203.0.113.1", A))
        await eventually(lambda: bool(other.told), "the others are told")
        assert old.messages == []


async def test_the_first_word_on_a_client_counts(make_store: MakeStore) -> None:
    async with sharing(make_store) as cluster:
        first, far = await cluster.connect("node-1"), await cluster.connect("node-3", 1)
        await first.report(client("203.0.113.1", A))
        await eventually(lambda: cluster.planners[1].held == {"203.0.113.1": A}, "it is known everywhere")
        await far.report(client("203.0.113.1", B), client("203.0.113.2", B))
        await eventually(lambda: "203.0.113.2" in cluster.planners[0].held, "the next one is known")
        assert cluster.planners[0].held["203.0.113.1"] == A


async def test_planners_that_hear_different_words_at_once_agree_on_one_for_each_client(make_store: MakeStore) -> None:
    numbers = [number(each) for each in range(300)]
    async with sharing(make_store) as cluster:
        first, second, third = [await cluster.connect(f"node-{each}", each // 2 % 2) for each in (1, 2, 3)]
        await asyncio.gather(
            first.report(*(client(each, A) for each in numbers)),
            second.report(*(client(each, B) for each in reversed(numbers))),
        )
        await eventually(lambda: len(cluster.planners[0].held) == len(numbers), "all are known")
        await eventually(lambda: cluster.planners[0].held == cluster.planners[1].held, "the planners agree")
        await eventually(lambda: all(each.told == cluster.planners[0].held for each in (first, second, third)), "told")


async def test_who_connects_again_is_remembered_for_longer_and_all_are_told(make_store: MakeStore) -> None:
    async with sharing(make_store) as cluster:
        first, far = await cluster.connect("node-1"), await cluster.connect("node-3", 1)
        await first.report(client("203.0.113.1", A, seconds=60))
        await eventually(lambda: bool(far.told), "it is told")
        await first.report(client("203.0.113.1", A, seconds=300))
        await eventually(lambda: far.left_ms("203.0.113.1") > 60_000, "the new time is told")
        await first.report(client("203.0.113.1", A, seconds=100))
        await first.report(client("203.0.113.2", A))
        await eventually(lambda: "203.0.113.2" in far.told, "the next one is told")
        assert far.left_ms("203.0.113.1") > 100_000


async def test_who_stays_away_is_forgotten(make_store: MakeStore) -> None:
    async with sharing(make_store) as cluster:
        first = await cluster.connect("node-1")
        await first.report(client("203.0.113.1", A, seconds=0.5), client("203.0.113.2", A))
        await eventually(lambda: len(cluster.planners[1].held) == 2, "they are known")
        await eventually(lambda: cluster.planners[1].held == {"203.0.113.2": A}, "one is forgotten")
        later = await cluster.connect("node-2", 1)
        await eventually(lambda: later.told == {"203.0.113.2": A}, "the other one is told")


async def test_an_endpoint_that_leaves_loses_its_clients_and_no_others(make_store: MakeStore) -> None:
    async with sharing(make_store) as cluster:
        first = await cluster.connect("node-1")
        await first.report(client("203.0.113.1", A), client("203.0.113.2", B))
        await eventually(lambda: all(len(each.held) == 2 for each in cluster.planners), "they are known")
        cluster.put(*objects(B))
        await eventually(
            lambda: all(each.held == {"203.0.113.2": B} for each in cluster.planners), "its client is forgotten"
        )
        cluster.put(*objects(A, B))
        later = await cluster.connect("node-2", 1)
        await eventually(lambda: later.told == {"203.0.113.2": B}, "only the other one is told")


async def test_a_service_that_is_deleted_leaves_nobody_behind(make_store: MakeStore) -> None:
    async with sharing(make_store) as cluster:
        first = await cluster.connect("node-1")
        await first.report(client("203.0.113.1", A))
        await eventually(lambda: all(each.held for each in cluster.planners), "it is known")
        for planner in cluster.planners:
            planner.served.remove(key_of(objects()[0]))
        await eventually(lambda: not any(each.held for each in cluster.planners), "it is forgotten")
        cluster.put(*objects(A, B))
        await first.report(client("203.0.113.2", B))
        await eventually(lambda: first.told.get("203.0.113.2") == B, "a new one of the name has its own")


async def test_an_endpoint_that_ends_counts_as_gone_and_one_that_is_added_moves_nobody(make_store: MakeStore) -> None:
    async with sharing(make_store) as cluster:
        first = await cluster.connect("node-1")
        await first.report(client("203.0.113.1", A), client("203.0.113.2", B))
        await eventually(lambda: all(len(each.held) == 2 for each in cluster.planners), "they are known")
        cluster.put(*objects(A, B, "10.1.0.3"))
        assert all(len(each.held) == 2 for each in cluster.planners)
        ending = endpoint(A, ready=False, serving=True, terminating=True)
        cluster.put(objects()[0], endpoint_slice("shop/web-x", "web", [ending, B], ["p:8080"]))
        await eventually(lambda: cluster.planners[1].held == {"203.0.113.2": B}, "its client is forgotten")


async def test_an_endpoint_that_the_service_does_not_have_is_not_taken_from_anybody(make_store: MakeStore) -> None:
    async with sharing(make_store, planners=1) as cluster:
        first, other = await cluster.connect("node-1"), await cluster.connect("node-2")
        foreign = ServicePortName(ServiceKey("shop", "other"), "p", Protocol.TCP)
        udp = PORT._replace(protocol=Protocol.UDP)
        await first.report(
            client("203.0.113.1", "8.8.8.8"),
            client("203.0.113.2", A, port=foreign),
            client("203.0.113.3", A, port=udp),
            client("203.0.113.4", A, port=PORT._replace(port="q")),
            client("203.0.113.5", A),
        )
        await eventually(lambda: other.told == {"203.0.113.5": A}, "the possible one is told")
        assert cluster.planners[0].value("affinity_reported_total", outcome="unusable") == 4


async def test_what_one_planner_does_not_know_yet_is_told_when_it_does(make_store: MakeStore) -> None:
    async with sharing(make_store) as cluster:
        first, far = await cluster.connect("node-1"), await cluster.connect("node-3", 1)
        cluster.planners[0].served.put(*objects(A, B, "10.1.0.3"))
        await first.report(client("203.0.113.1", "10.1.0.3"), client("203.0.113.2", A))
        await eventually(lambda: far.told == {"203.0.113.2": A}, "what is possible there is told")
        assert cluster.planners[1].held["203.0.113.1"] == "10.1.0.3"
        cluster.planners[1].served.put(*objects(A, B, "10.1.0.3"))
        await eventually(lambda: far.told == {"203.0.113.1": "10.1.0.3", "203.0.113.2": A}, "the rest is told")


async def test_a_service_has_a_bound_and_those_who_would_end_first_make_room(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(affinity_store, "OF_SERVICE_MAX", 40)
    async with sharing(make_store) as cluster:
        first = await cluster.connect("node-1")
        await first.report(*(client(number(each), A, seconds=100 + each) for each in range(60)))
        kept = {number(each): A for each in range(22, 60)}
        await eventually(lambda: all(each.held == kept for each in cluster.planners), "the last ones are kept")
        assert sum(each.value("affinity_evicted_total", bound="service") for each in cluster.planners) >= 22
        assert cluster.planners[0].parts.records.evicted >= 22 or cluster.planners[1].parts.records.evicted >= 22


async def test_the_store_has_a_bound_and_says_who_made_room(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Area(name="affinity", records_max=30, evicts=True)
    monkeypatch.setattr(affinity_store, "AREA", small)
    async with sharing(lambda: redis_store(redis.url)) as cluster:
        first = await cluster.connect("node-1")
        await first.report(*(client(number(each), A, seconds=100 + each) for each in range(30)))
        await eventually(lambda: len(cluster.planners[1].held) == 30, "they are known")
        await first.report(*(client(number(each), A, seconds=500) for each in range(100, 110)))
        kept = {number(each): A for each in [*range(10, 30), *range(100, 110)]}
        await eventually(lambda: cluster.planners[1].held == kept, "the first ones have made room")
        assert cluster.planners[0].value("affinity_evicted_total", bound="store") == 10


async def test_without_the_store_nobody_is_harmed_and_what_was_reported_follows(redis: RedisServer) -> None:
    async with sharing(lambda: redis_store(redis.url)) as cluster:
        first, far = await cluster.connect("node-1"), await cluster.connect("node-3", 1)
        await first.report(client("203.0.113.1", A))
        await eventually(lambda: bool(far.told), "it is told")
        redis.stop()
        await first.report(client("203.0.113.2", B))
        await eventually(lambda: cluster.planners[0].value("store_available") == 0, "the store is known to be away")
        await eventually(lambda: cluster.planners[0].parts.records.waiting == 1, "the report waits")
        cluster.put(*objects(A, B, "10.1.0.3"))
        await eventually(lambda: cluster.planners[1].served.is_converged("node-3"), "plans go on")
        assert far.told == {"203.0.113.1": A}
        await redis.start()
        await eventually(lambda: far.told == {"203.0.113.1": A, "203.0.113.2": B}, "what was reported is told")
        await eventually(lambda: len(cluster.planners[1].held) == 2, "what was known is known again")


async def test_hostile_values_are_left_out_and_everything_else_is_told(redis: RedisServer) -> None:
    async with sharing(lambda: redis_store(redis.url)) as cluster:
        first = await cluster.connect("node-1")
        await first.report(*(client(f"203.0.113.{each}", A) for each in range(1, 10)))
        await eventually(lambda: len(cluster.planners[1].held) == 9, "they are known")
        await poison(redis)
        later = await cluster.connect("node-2", await cluster.add(redis_store(redis.url)))
        good = {"203.0.113.1": A}
        await eventually(lambda: later.told == good, "the good one is told, and nothing else")
        assert cluster.planners[2].value("store_hostile_values_total", area="affinity") >= 8


async def poison(redis: RedisServer) -> None:
    """Values that no planner writes, under keys that exist and keys that make no sense."""
    far = round(time.time() * 1000) + 500_000
    values = {
        2: b"\xff\xfe",
        3: b"[]",
        4: b'["10.1.0.1",8080,-1]',
        5: b'["10.1.0.1",0]',
        6: b'["010.1.0.1",8080]',
        7: b'["fd00::1",8080]',
        8: b'["8.8.8.8",8080]',
        9: b"[" * 100_000,
    }
    for each, value in values.items():
        key = text_of(ClientKey(PORT, parse_address(f"203.0.113.{each}")))
        await redis.ask("HSET", AREA, f"/{key}", b"1 %d %s" % (far, value))
    for key in ("", "a/b", "shop/web/p/TCP/10.1", "shop/web/p/XXX/203.0.113.1", "//p/TCP/203.0.113.1", "x" * 600):
        await redis.ask("HSET", AREA, f"/{key}", b'1 %d ["10.1.0.1",8080,0]' % far)


async def test_a_message_of_nonsense_ends_no_stream(make_store: MakeStore) -> None:
    async with sharing(make_store, planners=1) as cluster:
        first, other = await cluster.connect("node-1"), await cluster.connect("node-2")
        odd = pb.AffinityMemory(entries=[pb.AffinityEntry(client=b"1"), pb.AffinityEntry(endpoint_port=1 << 31)])
        await first.stream.send(pb.StreamNodePlanRequest(affinity=odd))
        await first.report(client("203.0.113.1", A))
        await eventually(lambda: other.told == {"203.0.113.1": A}, "the good one is told")
