# SPDX-License-Identifier: Apache-2.0
"""A process that begins, and does not know everything yet, takes nothing away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pointsman_lab.apiserver.resources import SERVICES
from support.lab_cluster import ALL_SERVICES, lab
from support.lab_kernel import endpoints_in_kernel, generations
from support.lab_process import away, bring_back, enforcer_status, figure, take_away, wait_figure, wait_synced
from support.lab_world import World, fresh_namespace, traffic_everywhere

if TYPE_CHECKING:
    from pointsman_lab.cluster import Cluster

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.asyncio(loop_scope="session")]


async def begin_again(cluster: Cluster, process: str) -> None:
    """Kill a process and wait until its successor runs, which need not be ready."""
    before = (await cluster.processes())[process]
    await cluster.signal(process, "KILL")

    async def is_another() -> bool:
        return (await cluster.processes())[process].pid not in (None, before.pid)

    await cluster.wait_until(is_another, f"another {process}")


async def start(world: World) -> dict[str, Any]:
    service = await world.service(type="NodePort")
    await world.endpoints(world.backends[:2])
    await world.expect_everywhere(service["spec"]["clusterIP"], world.backends[:2])
    await wait_synced(world.cluster)
    return service


async def finish(world: World, service: dict[str, Any]) -> None:
    await world.expect_everywhere(service["spec"]["clusterIP"], world.backends)
    await wait_synced(world.cluster)
    await world.kernels_follow_the_api()


async def test_a_planner_that_begins_without_a_watcher_sends_no_plan(world: World) -> None:
    service, cluster = await start(world), world.cluster
    counted = await generations(cluster)
    async with traffic_everywhere(world, service) as flows:
        async with away(cluster, "watcher"):
            await begin_again(cluster, "planner")
            await wait_figure(cluster, "planner", "pointsman_planner_streams", 3)
            await world.endpoints(world.backends)
            await flows.enough()
            assert await generations(cluster) == counted
            assert await figure(cluster, "planner", "pointsman_planner_transactions_total") == 0
            for node in cluster.nodes:
                assert (await enforcer_status(cluster, node.name))["inSync"] is False
        await finish(world, service)
        await flows.enough()


async def test_watcher_and_planner_that_begin_while_the_api_server_hangs_change_nothing(world: World) -> None:
    service, cluster = await start(world), world.cluster
    counted = await generations(cluster)
    async with traffic_everywhere(world, service) as flows:
        async with away(cluster, "apiserver", "stopped"):
            await begin_again(cluster, "watcher")
            await wait_figure(cluster, "watcher", "pointsman_watcher_revision", 0)
            await begin_again(cluster, "planner")
            await wait_figure(cluster, "planner", "pointsman_planner_streams", 3)
            await flows.enough()
            assert await generations(cluster) == counted
            assert await figure(cluster, "watcher", "pointsman_watcher_in_sync") == 0
        await world.endpoints(world.backends)
        await finish(world, service)
        await flows.enough()


@pytest.mark.parametrize("resource", ["services", "endpointslices", "nodes", "servicecidrs"])
async def test_while_one_kind_of_object_cannot_be_listed_no_plan_leaves(world: World, resource: str) -> None:
    service, cluster = await start(world), world.cluster
    counted = await generations(cluster)
    for verb in ("list", "watch"):
        await cluster.fault("refuse", resource=resource, verb=verb, count=10_000, code=503)
    await begin_again(cluster, "planner")
    await begin_again(cluster, "watcher")
    await wait_figure(cluster, "watcher", "pointsman_watcher_request_failures_total", 1, resource=resource)
    for other in {"services", "endpointslices", "nodes", "servicecidrs"} - {resource}:
        await wait_figure(cluster, "watcher", "pointsman_watcher_lists_total", 1, resource=other)
    await wait_figure(cluster, "planner", "pointsman_planner_streams", 3)
    await world.expect_everywhere(service["spec"]["clusterIP"], world.backends[:2])
    assert await generations(cluster) == counted
    assert await figure(cluster, "watcher", "pointsman_watcher_in_sync") == 0
    assert await figure(cluster, "planner", "pointsman_planner_transactions_total") == 0
    await cluster.clear_faults()
    await world.endpoints(world.backends)
    await finish(world, service)


async def test_a_snapshot_that_lost_most_services_is_held_for_a_time_and_said() -> None:
    count = 25
    async with lab(nodes=1, zones=1, services=ALL_SERVICES) as cluster, fresh_namespace(cluster, (), "many") as world:
        for number in range(count):
            await world.service(f"s{number}")
        services = (await cluster.api.list(SERVICES, "many"))["items"]
        for item in services:
            await one_endpoint(world, item["metadata"]["name"])
        await world.kernels_follow_the_api()
        full = await endpoints_in_kernel(cluster, "node-1")
        assert len(full) > count
        await take_away(cluster, "watcher", "killed")
        for item in services:
            await cluster.api.delete(SERVICES, item["metadata"]["name"], "many")
        await bring_back(cluster, "watcher")
        await wait_figure(cluster, "planner", "pointsman_planner_mass_deletes_held_total", 1)
        log = (cluster.state.logs / "planner.log").read_text()
        assert f"the watcher's state would remove {count} of" in log
        assert await endpoints_in_kernel(cluster, "node-1") == full
        await world.kernels_follow_the_api()
        assert await figure(cluster, "planner", "pointsman_planner_mass_delete_holding") == 0


async def one_endpoint(world: World, service: str) -> None:
    """A slice with an endpoint that no pod stands behind."""
    body = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": ["10.244.9.9"]}],
    }
    path = f"/apis/discovery.k8s.io/v1/namespaces/{world.namespace}/endpointslices"
    await world.cluster.api.request("POST", path, body)
