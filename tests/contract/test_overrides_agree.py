# SPDX-License-Identifier: Apache-2.0
"""Two planners on one store, whatever is asked of either and whatever it loses: in the end they agree."""

import asyncio
from contextlib import suppress
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman_chassis.errors import PointsmanError
from pointsman_model.cluster import Change, ClusterPosition, key_of
from pointsman_planner.core.override import Override, OverrideKey
from pointsman_planner.core.planner import Batch
from pointsman_planner.override_parts import OverrideOptions
from pointsman_planner.store.memory_store import MemoryStore
from pointsman_planner.store.override_store import AREA
from support.cluster_objects import endpoint, endpoint_slice, node, service
from support.override_server import OverrideServer
from support.overrides import overrides
from support.plan_server import eventually
from support.planner_stores import running

ENDPOINTS = [endpoint(f"10.1.0.{number}", node=f"n{number}") for number in (1, 2, 3)]
OBJECTS = (
    node("n1", "192.168.0.1", zone="a"),
    *(service(f"default/s{number}", f"10.96.0.{number}", ports=["p:80"]) for number in (1, 2, 3)),
    *(endpoint_slice(f"default/s{number}-1", f"s{number}", ENDPOINTS, ["p:80"]) for number in (1, 2, 3)),
)
KEYS = st.builds(OverrideKey, st.sampled_from(["", "default"]), st.integers(1, 5).map(lambda number: f"o{number}"))
STEPS = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.one_of(
            st.tuples(st.just("apply"), overrides()),
            st.tuples(st.just("apply"), overrides()),
            st.tuples(st.sampled_from(["renew", "delete"]), KEYS),
            st.tuples(st.sampled_from(["lose", "wait"]), st.none()),
        ),
    ),
    max_size=12,
)


async def take(server: OverrideServer, store: MemoryStore, step: tuple[str, Override | OverrideKey | None]) -> None:
    desk, (verb, what) = server.parts.desk, step
    if verb == "lose":
        store.lose()
    elif verb == "wait":
        await asyncio.sleep(0.03)
    elif isinstance(what, Override):
        held = server.parts.feed.held.get(what.key)
        etag = held.override.etag if held is not None else ""
        await desk.apply(replace(what, etag=etag), validate_only=False, traceparent="")
    elif isinstance(what, OverrideKey) and verb == "renew":
        await desk.renew(what, "")
    elif isinstance(what, OverrideKey) and what in server.parts.feed.held:
        await desk.delete(what, server.parts.feed.held[what].override.etag, validate_only=False)


async def agree(servers: list[OverrideServer], store: MemoryStore) -> None:
    """Nobody lags, and everything that anybody plans from is the same."""

    def is_so() -> bool:
        records = [
            {key: record.version for key, record in server.parts.records._replica.records.items()} for server in servers
        ]
        return records[0] == records[1] and all(s.parts.records.head == store._state(AREA).head for s in servers)

    await eventually(is_so, "the planners have what the store has")
    one, two = servers
    assert one.parts.feed.held.keys() == two.parts.feed.held.keys()
    assert one.planner.cluster.overrides == two.planner.cluster.overrides
    assert one.planner.position.overrides == two.planner.position.overrides
    assert one.planner.index.digest_once("n1") == two.planner.index.digest_once("n1")


async def play(steps: list[tuple[int, tuple[str, Override | OverrideKey | None]]]) -> None:
    store = MemoryStore()
    servers = [OverrideServer(store, OverrideOptions(), 0.02) for _ in range(2)]
    async with running(*(server.replicas for server in servers)):
        for server in servers:
            assert await server.replicas.loaded(10)
            changes = tuple(Change(key=key_of(value), value=value) for value in OBJECTS)
            server.planner.apply(Batch(changes=changes, position=ClusterPosition(epoch="e", revision=1)))
        for number, step in steps:
            with suppress(PointsmanError):
                await take(servers[number], store, step)
        await agree(servers, store)


@settings(max_examples=25, deadline=None)
@given(STEPS)
def test_planners_agree_with_each_other_and_with_the_store(
    steps: list[tuple[int, tuple[str, Override | OverrideKey | None]]],
) -> None:
    asyncio.run(play(steps))
