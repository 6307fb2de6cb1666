# SPDX-License-Identifier: Apache-2.0
"""Several planners: any may be dialled; joins, drains and crashes move only the nodes they must, without a break."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_planner.store.memory_store import MemoryStore
from pointsman_planner.store.port import Store
from support.cluster_objects import endpoint_slice, node, service
from support.plan_server import eventually
from support.planner_fleet import Fleet, fleet
from support.planner_stores import redis_store
from support.redis_server import RedisServer, redis_server

NODES = [f"node-{number}" for number in range(24)]
SERVICES = 40
AGREES_BYTES_MAX = 400
"""A first transaction that brings facts of the node and no service."""


def objects() -> list[object]:
    made: list[object] = [node(name, f"192.168.0.{number + 1}") for number, name in enumerate(NODES)]
    for number in range(SERVICES):
        made += change(number, "10.1.0.1")
    return made


def change(number: int, *addresses: str) -> list[object]:
    return [
        service(f"shop/web-{number}", f"10.96.0.{number + 1}", ports=["p:80"]),
        endpoint_slice(f"shop/web-{number}-x", f"web-{number}", list(addresses), ["p:80"]),
    ]


def one_store() -> Callable[[], Store]:
    store = MemoryStore()
    return lambda: store


def counts(made: Fleet) -> dict[str, tuple[int, int, int]]:
    return {name: (each.dials, len(each.moves), each.transaction_bytes) for name, each in made.nodes.items()}


def assert_moved(made: Fleet, before: dict[str, tuple[int, int, int]], moved: set[str], *, gaps: int = 0) -> None:
    """These moved once, at the price of an empty transaction; no other was touched."""
    for name, each in made.nodes.items():
        dials, moves, size = before[name]
        if name in moved:
            assert len(each.moves) == moves + 1, name
            assert each.transaction_bytes - size <= AGREES_BYTES_MAX
        else:
            assert (each.dials, len(each.moves), each.transaction_bytes) == (dials, moves, size), name
        assert each.gaps == (gaps if name in moved else 0), name


def is_frozen(made: Fleet) -> bool:
    """Whether the store is away for so long that no planner knows who lives."""
    return all(each.registry.value("pointsman_planner_membership_frozen") == 1 for each in made.planners.values())


async def test_any_planner_may_be_dialled_and_each_node_ends_with_its_owner() -> None:
    async with fleet(one_store(), objects(), "a", "b", "c") as made:
        made.connect(NODES)
        await eventually(made.is_settled, "every node is with its owner")
        for each in made.nodes.values():
            assert len(each.moves) == 1
            assert each.dials <= 2
            assert each.candidates[0].address == made.planners[each.planner].address
            assert len(each.candidates) == 3
        redirected = [each for each in made.nodes.values() if each.dials == 2]
        assert redirected
        assert {reason for each in redirected for reason in each.reasons} == {pb.Redirect.REASON_NOT_OWNER}


async def test_a_planner_that_joins_is_given_its_nodes_and_no_other_moves() -> None:
    async with fleet(one_store(), objects(), "a", "b") as made:
        made.connect(NODES)
        await eventually(made.is_settled, "every node is with its owner")
        before, former = counts(made), made.owners()
        await made.add("c")
        await eventually(made.is_settled, "the new planner has its nodes")
        moved = {name for name, owner in made.owners().items() if owner != former[name]}
        assert 0 < len(moved) < len(NODES) / 2
        assert_moved(made, before, moved)
        made.put(*change(3, "10.1.0.7"))
        await eventually(made.is_settled, "a change reaches every node")


async def test_nodes_that_stay_hear_of_the_others_they_could_dial() -> None:
    async with fleet(one_store(), objects(), "a") as made:
        made.connect(NODES)
        await eventually(made.is_settled, "every node is with its owner")
        assert {len(each.candidates) for each in made.nodes.values()} == {1}
        await made.add("b")
        await eventually(made.is_settled, "the new planner has its nodes")

        def know(count: int) -> bool:
            return all(
                len(each.candidates) == count and each.candidates[0].planner_id == each.planner
                for each in made.nodes.values()
            )

        await eventually(lambda: know(2), "those that stayed know it, too")
        stayed = [each for each in made.nodes.values() if len(each.moves) == 1]
        assert stayed
        assert {each.dials for each in stayed} == {1}
        for each in made.nodes.values():
            each.addresses = ()
        moved = set(made.planners["a"].nodes)
        await made.remove("a", is_crash=True)
        await eventually(made.is_settled, "they go where they were told, knowing no other address")
        assert {name for name, each in made.nodes.items() if each.gaps} == moved
        await eventually(lambda: know(1), "and hear that there is no other any more")


async def test_a_planner_that_drains_gives_its_nodes_away_before_it_ends() -> None:
    async with fleet(one_store(), objects(), "a", "b", "c") as made:
        made.connect(NODES)
        await eventually(made.is_settled, "every node is with its owner")
        before, leaving = counts(made), made.planners["b"]
        moved = set(leaving.nodes)
        draining = asyncio.create_task(made.remove("b", is_crash=False))
        made.put(*change(4, "10.1.0.8"))
        await draining
        await eventually(made.is_settled, "the others have its nodes")
        for name, each in made.nodes.items():
            assert each.gaps == 0, name
            assert len(each.moves) == before[name][1] + (name in moved), name
            if name in moved:
                assert each.reasons[-1] == pb.Redirect.REASON_DRAINING
        assert leaving.nodes == set()


async def test_a_planner_that_dies_loses_only_its_own_nodes(tmp_path: Path) -> None:
    async with (
        redis_server(tmp_path) as server,
        fleet(lambda: redis_store(server.url), objects(), "a", "b", "c") as made,
    ):
        made.connect(NODES)
        await eventually(made.is_settled, "every node is with its owner")
        before, moved = counts(made), set(made.planners["c"].nodes)
        await made.remove("c", is_crash=True)
        await eventually(made.is_settled, "the others have its nodes")
        assert_moved(made, before, moved, gaps=1)
        await eventually(lambda: made.planners["a"].members == {"a", "b"}, "its lease has ended")
        await asyncio.sleep(0.2)
        assert_moved(made, before, moved, gaps=1)


async def test_while_the_store_is_away_membership_is_frozen_and_changes_go_on(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    await server.start()
    try:
        async with fleet(lambda: redis_store(server.url), objects(), "a", "b", "c") as made:
            made.connect(NODES)
            await eventually(made.is_settled, "every node is with its owner")
            before = counts(made)
            server.stop()
            await eventually(lambda: is_frozen(made), "it is seen")
            made.put(*change(5, "10.1.0.9"))
            await eventually(made.is_settled, "a change is programmed by every node meanwhile")
            assert {name: each.dials for name, each in made.nodes.items()} == {k: v[0] for k, v in before.items()}
            moved = set(made.planners["a"].nodes)
            await made.remove("a", is_crash=True)
            await eventually(made.is_settled, "the second candidates serve, though nobody knows that it is dead")
            assert made.planners["b"].members == {"a", "b", "c"}
            await server.start()
            await eventually(lambda: made.planners["b"].members == {"b", "c"}, "the dead one had a lease to come back")
            assert {name for name, each in made.nodes.items() if len(each.moves) > before[name][1]} == moved
    finally:
        server.stop()


@pytest.mark.parametrize("is_flushed", [True, False])
async def test_a_store_that_comes_back_moves_nobody(tmp_path: Path, is_flushed: bool) -> None:
    server = RedisServer(tmp_path)
    await server.start()
    try:
        async with fleet(lambda: redis_store(server.url), objects(), "a", "b", "c", lease_seconds=2.0) as made:
            made.connect(NODES)
            await eventually(made.is_settled, "every node is with its owner")
            before = counts(made)
            if is_flushed:
                await server.ask("FLUSHALL")
            else:
                server.stop()
                await eventually(lambda: is_frozen(made), "every lease has ended, and nobody is missed for it")
                await server.start()
            # Longer than a lease: for so long members are kept after such an event, whether they are there or not.
            for _ in range(30):
                await asyncio.sleep(0.05 * made.lease_seconds)
                assert {each.registry.value("pointsman_planner_members") for each in made.planners.values()} == {3}
            assert not is_frozen(made)
            assert_moved(made, before, set())
            assert made.is_settled()
    finally:
        server.stop()
