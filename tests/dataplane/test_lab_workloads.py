# SPDX-License-Identifier: Apache-2.0
"""Pods live and end as Kubernetes pods do, and their EndpointSlices say so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from pointsman_lab.apiserver.resources import DEPLOYMENTS, PODS
from pointsman_lab.controller.pods import DRAIN_ANNOTATION, READINESS_DELAY_ANNOTATION
from support.lab_cluster import lab, workload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pointsman_lab.cluster import Cluster

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    async with lab(nodes=2, zones=2) as running:
        yield running


async def conditions(cluster: Cluster, service: str) -> dict[str, tuple[bool, bool, bool]]:
    """Pod name -> (ready, serving, terminating)."""
    return {
        endpoint["targetRef"]["name"]: tuple(endpoint["conditions"][key] for key in ("ready", "serving", "terminating"))
        for slice_ in await cluster.endpoint_slices("default", service)
        for endpoint in slice_.get("endpoints") or ()
    }


async def annotate_template(cluster: Cluster, name: str, **annotations: str) -> None:
    patch = {"spec": {"template": {"metadata": {"annotations": annotations}}}}
    await cluster.api.patch(DEPLOYMENTS, name, patch, "default")


async def test_a_pod_is_no_ready_endpoint_before_its_readiness_delay(cluster: Cluster) -> None:
    await cluster.apply_text(workload("slow", replicas=1, annotations={READINESS_DELAY_ANNOTATION: "1"}))
    seen: list[tuple[bool, bool, bool]] = []

    async def is_ready() -> bool:
        seen.extend((await conditions(cluster, "slow")).values())
        return (True, True, False) in seen

    await cluster.wait_until(is_ready, "slow is ready")
    states = await cluster.pods("default", app="slow")
    assert states[0]["status"]["containerStatuses"][0]["ready"] is True
    started, ready = (
        next(c["lastTransitionTime"] for c in states[0]["status"]["conditions"] if c["type"] == kind)
        for kind in ("PodScheduled", "Ready")
    )
    assert ready >= started


async def test_a_pod_that_ends_serves_on_and_is_marked_terminating(cluster: Cluster) -> None:
    await cluster.apply_text(workload("drain", replicas=1, annotations={DRAIN_ANNOTATION: "1"}))
    await cluster.wait_deployed("default", "drain")
    (pod,) = await cluster.pods("default", app="drain")
    name, address = pod["metadata"]["name"], pod["status"]["podIP"]
    async with cluster.session("node-1", address, 8080) as ask:
        await ask()
        await cluster.scale("default", "drain", 0)

        async def is_terminating() -> bool:
            return (await conditions(cluster, "drain")).get(name) == (False, True, True)

        await cluster.wait_until(is_terminating, "the endpoint is terminating and serving")
        assert (await ask()).pod == name
        assert (await cluster.connect("node-1", address, 8080)).pod == name

    async def is_gone() -> bool:
        return await conditions(cluster, "drain") == {}

    await cluster.wait_until(is_gone, "the endpoint is gone")
    assert not await cluster.pods("default", app="drain")


async def test_a_rolling_update_never_has_fewer_ready_endpoints_than_replicas(cluster: Cluster) -> None:
    await cluster.apply_text(workload("roll", replicas=3, annotations={READINESS_DELAY_ANNOTATION: "0.2"}))
    await cluster.wait_deployed("default", "roll")
    before = set(await conditions(cluster, "roll"))
    fewest = 3
    await annotate_template(cluster, "roll", version="2")
    rollout = asyncio.create_task(cluster.wait_deployed("default", "roll"))
    while not rollout.done():
        ready = [state for state in (await conditions(cluster, "roll")).values() if state[0]]
        fewest = min(fewest, len(ready))
    await rollout
    after = set(await conditions(cluster, "roll"))
    assert fewest == 3
    assert len(after) == 3
    assert not before & after


async def test_a_killed_server_is_started_again_under_the_same_address(cluster: Cluster) -> None:
    await cluster.apply_text(workload("crash", replicas=1))
    await cluster.wait_deployed("default", "crash")
    (pod,) = await cluster.pods("default", app="crash")
    name, address = pod["metadata"]["name"], pod["status"]["podIP"]
    await cluster.kill_pod("default", name)

    async def has_restarted() -> bool:
        found = await cluster.api.get(PODS, name, "default")
        status: dict[str, Any] = found["status"]["containerStatuses"][0]
        return status["restartCount"] == 1 and status["ready"] is True

    await cluster.wait_until(has_restarted, "the server runs again")
    probe = await cluster.connect("node-1", address, 8080)
    assert probe.pod == name

    async def is_endpoint() -> bool:
        return (await conditions(cluster, "crash"))[name] == (True, True, False)

    await cluster.wait_until(is_endpoint, "its slice says so, too")


async def test_a_pod_deleted_without_grace_is_gone_and_replaced(cluster: Cluster) -> None:
    await cluster.apply_text(workload("force", replicas=1))
    await cluster.wait_deployed("default", "force")
    (pod,) = await cluster.pods("default", app="force")
    name = pod["metadata"]["name"]
    await cluster.api.delete(PODS, name, "default", grace_seconds=0)

    async def is_replaced() -> bool:
        names = [found["metadata"]["name"] for found in await cluster.pods("default", app="force")]
        return len(names) == 1 and names != [name]

    await cluster.wait_until(is_replaced, "another pod")
    await cluster.wait_deployed("default", "force")

    async def is_gone() -> bool:
        return name not in await cluster.node_exec("control", "ls", "/run/netns")

    await cluster.wait_until(is_gone, "its network namespace is gone, too")


async def test_a_bare_pod_runs_where_it_says(cluster: Cluster) -> None:
    await cluster.apply_text(
        "{apiVersion: v1, kind: Pod, metadata: {name: bare},"
        " spec: {nodeName: node-2, containers: [{name: c, image: x}]}}"
    )

    async def is_ready() -> bool:
        found = await cluster.api.get(PODS, "bare", "default")
        return bool((found.get("status") or {}).get("phase") == "Running")

    await cluster.wait_until(is_ready, "bare runs")
    probe = await cluster.connect("node-1", (await cluster.api.get(PODS, "bare", "default"))["status"]["podIP"], 80)
    assert probe.answer is not None
    assert (probe.answer.pod, probe.answer.node) == ("bare", "node-2")


async def test_deleting_a_deployment_and_its_service_leaves_no_pod_and_no_slice(cluster: Cluster) -> None:
    text = workload("gone", replicas=2, ipFamilyPolicy="PreferDualStack")
    await cluster.apply_text(text)
    await cluster.wait_deployed("default", "gone")
    assert len(await cluster.endpoint_slices("default", "gone")) == 2
    await cluster.delete_text(text)

    async def is_gone() -> bool:
        pods = await cluster.pods("default", app="gone")
        return not pods and not await cluster.endpoint_slices("default", "gone")

    await cluster.wait_until(is_gone, "nothing of it is left")


async def test_controllers_go_on_after_lost_watches_and_compaction(cluster: Cluster) -> None:
    await cluster.apply_text(workload("steady", replicas=1))
    await cluster.wait_deployed("default", "steady")
    await cluster.fault("compact")
    await cluster.fault("drop-watches", abrupt=True)
    await cluster.scale("default", "steady", 3)
    await cluster.wait_deployed("default", "steady")
    assert len(await conditions(cluster, "steady")) == 3


async def test_a_load_balancer_gets_an_address_that_outside_routes_over_ready_nodes(cluster: Cluster) -> None:
    await cluster.apply_text(workload("edge", replicas=1, type="LoadBalancer", externalTrafficPolicy="Local"))
    await cluster.wait_deployed("default", "edge")
    (pod,) = await cluster.pods("default", app="edge")
    address = (await cluster.service("default", "edge"))["status"]["loadBalancer"]["ingress"][0]["ip"]
    node = cluster.topology.node(pod["spec"]["nodeName"])

    async def is_routed() -> bool:
        routes = await cluster.node_exec("outside", "ip", "route", "get", address)
        return f"via {node.address.ipv4}" in routes

    await cluster.wait_until(is_routed, "the route follows the ready endpoint")
