# SPDX-License-Identifier: Apache-2.0
"""Whatever goes away, no rule goes with it and no request fails; when it is back, everybody catches up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pointsman_lab.probe.outcome import Outcome
from support.lab_kernel import generations, rulesets
from support.lab_process import (
    away,
    bring_back,
    enforcer_status,
    figure,
    take_away,
    wait_synced,
)
from support.lab_world import traffic_everywhere

if TYPE_CHECKING:
    from support.lab_process import Manner
    from support.lab_world import World

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.asyncio(loop_scope="session")]

TABLES = ("ip", "ip6")


async def serve_by_two(world: World) -> dict[str, Any]:
    """A NodePort Service with the first two pods, in every kernel."""
    service = await world.service(type="NodePort")
    await world.endpoints(world.backends[:2])
    await world.expect_everywhere(service["spec"]["clusterIP"], world.backends[:2])
    await wait_synced(world.cluster)
    return service


@pytest.mark.parametrize("manner", ["killed", "ended", "stopped"])
@pytest.mark.parametrize("process", ["watcher", "planner"])
async def test_without_watcher_or_planner_nothing_moves_and_changes_are_made_up_for(
    world: World, process: str, manner: Manner
) -> None:
    service = await serve_by_two(world)
    before = await rulesets(world.cluster)
    counted = await generations(world.cluster)
    async with traffic_everywhere(world, service) as flows:
        async with away(world.cluster, process, manner):
            await world.endpoints(world.backends)
            await flows.enough()
            assert await generations(world.cluster) == counted
            assert await rulesets(world.cluster) == before
        await world.expect_everywhere(service["spec"]["clusterIP"], world.backends)
        await wait_synced(world.cluster)
        await world.kernels_follow_the_api()
        await flows.enough()


@pytest.mark.parametrize("manner", ["killed", "ended", "stopped"])
async def test_without_its_enforcer_a_node_keeps_serving_and_catches_up(world: World, manner: Manner) -> None:
    service = await serve_by_two(world)
    before = await rulesets(world.cluster)
    async with traffic_everywhere(world, service) as flows:
        async with away(world.cluster, "enforcer-node-1", manner):
            await world.endpoints(world.backends)
            for place in world.clients[1:]:
                await world.expect(place, service["spec"]["clusterIP"], world.backends)
            await flows.enough()
            assert (await rulesets(world.cluster))["node-1"] == before["node-1"]
        await world.expect(world.clients[0], service["spec"]["clusterIP"], world.backends)
        await wait_synced(world.cluster)
        await world.kernels_follow_the_api()
        await flows.enough()


@pytest.mark.parametrize("manner", ["killed", "stopped"])
async def test_redis_is_never_on_the_path_of_a_change(world: World, manner: Manner) -> None:
    service = await serve_by_two(world)
    async with traffic_everywhere(world, service) as flows:
        async with away(world.cluster, "redis", manner):
            await world.endpoints(world.backends)
            await world.expect_everywhere(service["spec"]["clusterIP"], world.backends)
            await wait_synced(world.cluster)
            await world.cluster.wait_until(lambda: is_degraded(world), "the planner says that it is degraded")
            await flows.enough()

        async def has_recovered() -> bool:
            return not await is_degraded(world)

        await world.cluster.wait_until(has_recovered, "status is shared again", timeout_seconds=60)


async def is_degraded(world: World) -> bool:
    return await figure(world.cluster, "planner", "pointsman_planner_store_available") == 0


async def test_a_planner_that_starts_without_redis_works_and_says_what_it_lacks(world: World) -> None:
    service = await serve_by_two(world)
    async with away(world.cluster, "redis"):
        async with away(world.cluster, "planner"):
            pass
        await world.endpoints(world.backends)
        await world.expect_everywhere(service["spec"]["clusterIP"], world.backends)
        await wait_synced(world.cluster)
        await world.cluster.wait_until(lambda: is_degraded(world), "the planner says that it is degraded")


async def test_an_api_server_that_hangs_costs_nothing(world: World) -> None:
    service = await serve_by_two(world)
    counted = await generations(world.cluster)
    async with traffic_everywhere(world, service) as flows:
        async with away(world.cluster, "apiserver", "stopped"):
            await flows.enough()
            await wait_synced(world.cluster)
            assert await generations(world.cluster) == counted
        await world.endpoints(world.backends)
        await world.expect_everywhere(service["spec"]["clusterIP"], world.backends)
        await wait_synced(world.cluster)
        await flows.enough()


@pytest.mark.parametrize("verdict", ["drop", "reject"])
async def test_a_collector_that_is_away_delays_no_change(world: World, verdict: str) -> None:
    service = await serve_by_two(world)
    rules = f"add table inet cut; add chain inet cut in {{ type filter hook input priority 0; }}; \
add rule inet cut in tcp dport 4317 {verdict}"
    async with traffic_everywhere(world, service) as flows:
        await world.cluster.node_exec("control", "nft", rules)
        try:
            for wanted in (world.backends, world.backends[1:], world.backends[:2]):
                await world.endpoints(wanted)
                await world.expect_everywhere(service["spec"]["clusterIP"], wanted)
            await wait_synced(world.cluster)
            await flows.enough()
        finally:
            await world.cluster.node_exec("control", "nft", "delete table inet cut")


async def test_an_enforcer_programs_its_plan_from_disk_before_it_has_reached_anybody(world: World) -> None:
    service = await serve_by_two(world)
    vip = service["spec"]["clusterIP"]
    cluster, node = world.cluster, "node-1"
    async with away(cluster, "planner"), away(cluster, "watcher"):
        await take_away(cluster, f"enforcer-{node}", "killed")
        for family in TABLES:
            await cluster.node_exec(node, "nft", "delete", "table", family, "pointsman")
        await world.expect(world.client(node), vip, Outcome.TIMEOUT)
        await bring_back(cluster, f"enforcer-{node}")
        await world.expect(world.client(node), vip, world.backends[:2])
        await world.expect(node, vip, world.backends[:2], 53, "UDP")
        assert (await cluster.processes())["planner"].state == "ended"
        status = await enforcer_status(cluster, node)
        assert (status["inSync"], status["pending"], status["failed"]) == (False, 0, {})
        await world.kernels_follow_the_api()
        counted = await generations(cluster)
    await wait_synced(cluster)
    assert await generations(cluster) == counted, "what the planner says is what was on the disk"


async def test_a_partitioned_node_keeps_serving_and_is_known_to_be_behind(world: World) -> None:
    cluster = world.cluster
    one, two, three = world.backends
    service = await world.service()
    vip = service["spec"]["clusterIP"]
    await world.endpoints([three])
    await world.expect_everywhere(vip, [three])
    await wait_synced(cluster)
    before = (await rulesets(cluster))["node-3"]
    async with cluster.traffic(three.place, vip, 80, workers=2) as new, cluster.traffic(
        three.place, vip, 53, "UDP", workers=2
    ) as udp:  # fmt: skip
        await cluster.partition("node-3")
        await world.endpoints([one, two, three])
        for place in world.clients[:2]:

            async def is_changed(place: str = place) -> bool:
                seen = {probe.pod for probe in await cluster.probe(place, vip, 80, count=24, timeout_seconds=0.3)}
                return {one.name, two.name} <= seen

            await cluster.wait_until(is_changed, f"{place} reaches the new endpoints")
        states = [line for line in await cluster.ask_planner("nodes") if '"node-3"' in line]
        assert '"digests_equal": false' in states[0], states
        assert (await rulesets(cluster))["node-3"] == before
        reports = [await new.stop(), await udp.stop()]
    assert [report.failed for report in reports] == [0, 0]
    await cluster.heal("node-3")
    await world.expect_everywhere(vip, [one, two, three])
    await wait_synced(cluster, timeout_seconds=60)
    await world.kernels_follow_the_api()
