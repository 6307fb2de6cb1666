# SPDX-License-Identifier: Apache-2.0
"""Whatever happens to the watches, nothing that did not change is touched, and what did change arrives."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from pointsman_lab.apiserver.resources import SERVICES
from support.lab_kernel import generations
from support.lab_process import figure, wait_synced
from support.lab_world import World, traffic_everywhere

if TYPE_CHECKING:
    from pointsman_lab.cluster import Cluster

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.asyncio(loop_scope="session")]

KINDS = 4
"""Of objects that the watcher watches."""
ENDS = "pointsman_watcher_watch_ends_total"
LISTS = "pointsman_watcher_lists_total"


async def start(world: World) -> dict[str, Any]:
    service = await world.service(type="NodePort")
    await world.endpoints(world.backends[:2])
    await world.expect_everywhere(service["spec"]["clusterIP"], world.backends[:2])
    await wait_synced(world.cluster)
    return service


async def finish(world: World, service: dict[str, Any]) -> None:
    await world.endpoints(world.backends)
    await world.expect_everywhere(service["spec"]["clusterIP"], world.backends)
    await wait_synced(world.cluster)


async def wait_grown(cluster: Cluster, name: str, above: float) -> None:
    async def has_grown() -> bool:
        return await figure(cluster, "watcher", name) >= above

    await cluster.wait_until(has_grown, f"{name} of the watcher is {above}")


async def open_watches(cluster: Cluster) -> dict[str, int]:
    stats = await cluster.api.request("GET", "/lab/v1/stats")
    found: dict[str, int] = stats["openWatches"]
    return found


@pytest.mark.parametrize("abrupt", [False, True])
async def test_dropped_watches_are_resumed_and_nothing_flaps(world: World, abrupt: bool) -> None:
    service, cluster = await start(world), world.cluster
    counted, watches = await generations(cluster), await open_watches(cluster)
    ended, listed = await figure(cluster, "watcher", ENDS), await figure(cluster, "watcher", LISTS)
    async with traffic_everywhere(world, service) as flows:
        await cluster.fault("drop-watches", abrupt=abrupt)
        await wait_grown(cluster, ENDS, ended + KINDS)

        async def are_back() -> bool:
            return await open_watches(cluster) == watches

        await cluster.wait_until(are_back, "the watches are back")
        await flows.enough()
        assert await generations(cluster) == counted
        assert await figure(cluster, "watcher", LISTS) == listed, "a resume is no list"
        await finish(world, service)


async def test_a_compacted_history_is_listed_again_without_a_flap(world: World) -> None:
    service, cluster = await start(world), world.cluster
    counted, listed = await generations(cluster), await figure(cluster, "watcher", LISTS, resource="services")
    async with traffic_everywhere(world, service) as flows:
        await cluster.fault("freeze-watches")
        note = {"metadata": {"annotations": {"example.org/note": "of no interest"}}}
        await cluster.api.patch(SERVICES, "web", note, world.namespace)
        await cluster.fault("compact")
        await cluster.fault("drop-watches", abrupt=True)
        await cluster.fault("thaw-watches")

        async def is_listed() -> bool:
            return await figure(cluster, "watcher", LISTS, resource="services") > listed

        await cluster.wait_until(is_listed, "services are listed again")
        await flows.enough()
        assert await generations(cluster) == counted
        await finish(world, service)


async def test_changes_missed_before_a_compaction_arrive_with_the_list(world: World) -> None:
    service, cluster = await start(world), world.cluster
    gone = await world.service("gone")
    await world.endpoints(world.backends, "gone")
    await world.expect_everywhere(gone["spec"]["clusterIP"], world.backends)
    async with traffic_everywhere(world, service):
        await cluster.fault("freeze-watches")
        await world.delete_service("gone")
        await world.endpoints(world.backends)
        new = await world.service("new")
        await world.endpoints(world.backends[1:], "new")
        await cluster.fault("compact")
        await cluster.fault("drop-watches", abrupt=True)
        await cluster.fault("thaw-watches")
        await world.expect_everywhere(new["spec"]["clusterIP"], world.backends[1:])
        await world.expect_everywhere(service["spec"]["clusterIP"], world.backends)
        await world.kernels_follow_the_api()
        await wait_synced(cluster)


async def test_frozen_watches_hold_changes_back_and_bring_all_of_them_when_they_thaw(world: World) -> None:
    service, cluster = await start(world), world.cluster
    counted = await generations(cluster)
    async with traffic_everywhere(world, service) as flows:
        await cluster.fault("freeze-watches")
        await world.endpoints(world.backends[1:])
        await world.endpoints(world.backends)
        new = await world.service("new")
        await flows.enough()
        assert await generations(cluster) == counted
        await cluster.fault("thaw-watches")
        await world.endpoints(world.backends[:1], "new")
        await world.expect_everywhere(service["spec"]["clusterIP"], world.backends)
        await world.expect_everywhere(new["spec"]["clusterIP"], world.backends[:1])
        await wait_synced(cluster)


async def test_delayed_events_arrive_and_the_last_state_wins(world: World) -> None:
    service, cluster = await start(world), world.cluster
    async with traffic_everywhere(world, service):
        await cluster.fault("delay-watches", seconds=0.3, resource="endpointslices")
        for wanted in (world.backends[1:], world.backends[:1], world.backends):
            await world.endpoints(wanted)
        await world.expect_everywhere(service["spec"]["clusterIP"], world.backends)
        await world.kernels_follow_the_api()


async def test_churn_under_faults_ends_where_the_api_is_and_harms_nobody_else(world: World) -> None:
    service, cluster = await start(world), world.cluster
    chance = random.Random(7)
    names = [f"churn-{number}" for number in range(6)]
    alive: set[str] = set()
    async with traffic_everywhere(world, service):
        for step in range(120):
            name = chance.choice(names)
            if name not in alive:
                await world.service(name)
                alive.add(name)
            elif chance.random() < 0.2:
                await world.delete_service(name)
                alive.remove(name)
            if name in alive:
                await world.endpoints(chance.sample(world.backends, chance.randint(0, 3)), name)
            if step % 10 == 5:
                await cluster.fault(chance.choice(("drop-watches", "compact", "freeze-watches")))
            elif step % 10 == 9:
                await cluster.fault("thaw-watches")
                await cluster.fault("drop-watches", abrupt=True)
        await world.kernels_follow_the_api()
        await wait_synced(cluster)
