# SPDX-License-Identifier: Apache-2.0
"""From the API server to the kernel: what cannot be programmed is named with object and field, counted, and alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pointsman_lab.apiserver.resources import ENDPOINTSLICES
from pointsman_lab.nodes import node_states
from support.lab_process import enforcer_status, figure, wait_synced
from support.lab_world import traffic_everywhere

if TYPE_CHECKING:
    from support.lab_world import World

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.asyncio(loop_scope="session")]

FAULTY = "pointsman_watcher_faulty_fields_total"
REFUSED = "pointsman_planner_nacked_services_total"
FAILED = "pointsman_enforcer_failed_services"


def slice_of(world: World, service: str, name: str, endpoints: list[dict[str, Any]], ports: int = 1) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": world.namespace,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "ports": [{"name": f"p{number}", "protocol": "TCP", "port": 8000 + number} for number in range(ports)],
        "endpoints": endpoints,
    }


def thousand(number: int) -> list[dict[str, Any]]:
    """Endpoints that nobody has."""
    return [{"addresses": [f"10.25{number}.{each // 250}.{each % 250 + 1}"]} for each in range(1000)]


def warnings(world: World, process: str, *words: str) -> list[str]:
    """Lines of a process's log that have all the words and this test's namespace."""
    log = (world.cluster.state.logs / f"{process}.log").read_text()
    wanted = (f"{world.namespace}/", '"warning"', *words)
    return [line for line in log.splitlines() if all(word in line for word in wanted)]


async def test_a_service_no_node_can_program_is_named_everywhere_and_keeps_nobody_waiting(world: World) -> None:
    sound = await world.service("sound", type="NodePort")
    await world.endpoints(world.backends, "sound")
    await world.expect_everywhere(sound["spec"]["clusterIP"], world.backends)
    ports = [{"name": f"p{number}", "port": 8000 + number} for number in range(100)]
    await world.service("huge", ports=ports)
    refused = await figure(world.cluster, "planner", REFUSED)
    async with traffic_everywhere(world, sound) as flows:
        for number in range(2):
            body = slice_of(world, "huge", f"huge-{number}", thousand(number), ports=100)
            await world.cluster.api.create(ENDPOINTSLICES, body, world.namespace)
        nodes = [node.name for node in world.cluster.nodes]

        async def is_refused() -> bool:
            return await figure(world.cluster, "planner", REFUSED) >= refused + len(nodes)

        await world.cluster.wait_until(is_refused, "every node has refused it")
        for node in nodes:
            (failed,) = (await enforcer_status(world.cluster, node))["failed"].items()
            assert failed[0] == f"{world.namespace}/huge"
            assert (failed[1]["stage"], "plan-above-1-mib" in failed[1]["message"]) == ("UNSUPPORTED", True)
            assert await figure(world.cluster, f"enforcer-{node}", FAILED, stage="unsupported") == 1
        assert all(f"{world.namespace}/huge" in str(state) for state in await node_states(world.cluster))
        await world.endpoints(world.backends[1:], "sound")
        await world.expect_everywhere(sound["spec"]["clusterIP"], world.backends[1:])
        await flows.enough()
    await world.delete_slice("huge-1")
    await wait_synced(world.cluster)
    assert await figure(world.cluster, f"enforcer-{nodes[0]}", FAILED) == 0


async def test_a_thousand_malformed_endpoints_are_one_line_and_a_thousand_in_the_count(world: World) -> None:
    faulty = await figure(world.cluster, "watcher", FAULTY)
    vip = (await world.service())["spec"]["clusterIP"]
    usable = [{"addresses": [backend.ipv4], "nodeName": backend.node} for backend in world.backends]
    count = 1000 - len(usable)
    bad = [{"addresses": [f"127.0.{number // 250}.{number % 250 + 1}"]} for number in range(count)]
    body = slice_of(world, "web", "thousand", [*bad, *usable])
    body["ports"] = [{"name": "http", "protocol": "TCP", "port": 8080}]
    await world.cluster.api.create(ENDPOINTSLICES, body, world.namespace)
    await world.expect_everywhere(vip, world.backends)
    await world.kernels_hold(vip, {(backend.ipv4, 8080) for backend in world.backends})
    (line,) = warnings(world, "watcher", "/thousand")
    assert "endpoints[0].addresses[0]" in line
    assert "127.0.0.1" in line
    assert len(line) < 4000
    assert await figure(world.cluster, "watcher", FAULTY) == faulty + count
    await wait_synced(world.cluster)
