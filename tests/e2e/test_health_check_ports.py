# SPDX-License-Identifier: Apache-2.0
"""A health check node port that one node cannot serve: known to the planner, by Service and node, until it is over."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from support.lab_process import figure, wait_synced

if TYPE_CHECKING:
    from support.lab_world import World

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.asyncio(loop_scope="session")]

PORT = 32123
CONDITIONS = "pointsman_planner_service_conditions"
OCCUPY = (
    "import socket, time; held = socket.create_server(('0.0.0.0', {port}), backlog=1); "
    "open('{flag}', 'w').close(); time.sleep(60)"
)


async def test_a_port_that_is_taken_on_one_node_is_told_upstream_and_harms_nothing_else(world: World) -> None:
    node, *_ = world.cluster.nodes
    flag = world.cluster.state.logs / "occupied"
    command = OCCUPY.format(port=PORT, flag=flag)
    holding = asyncio.create_task(world.cluster.node_exec(node.name, "timeout", "30", "python3", "-c", command))

    async def is_held() -> bool:
        return flag.exists()

    async def is_told() -> bool:
        return await figure(world.cluster, "planner", CONDITIONS, kind="health_check_node_port") == 1

    async def is_over() -> bool:
        return await figure(world.cluster, "planner", CONDITIONS) == 0

    try:
        await world.cluster.wait_until(is_held, "the port is taken")
        made = await world.service(type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=PORT)
        vip = made["spec"]["clusterIP"]
        await world.endpoints(world.backends)
        await world.cluster.wait_until(is_told, "the planner knows")
        log = (world.cluster.state.logs / "planner.log").read_text()
        (line,) = [line for line in log.splitlines() if f"{world.namespace}/web" in line and "cannot be served" in line]
        assert f'"node": "{node.name}"' in line
        assert "Address already in use" in line
        await world.expect_everywhere(vip, world.backends)
        await wait_synced(world.cluster)
        other = world.cluster.nodes[1]
        answer = await world.cluster.node_exec(other.name, "curl", "-s", f"http://{other.address.ipv4}:{PORT}/")
        assert '"localEndpoints": 1' in answer
        await world.delete_service()
        await world.cluster.wait_until(is_over, "the planner knows that it is over")
    finally:
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)
