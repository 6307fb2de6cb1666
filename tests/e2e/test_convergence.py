# SPDX-License-Identifier: Apache-2.0
"""What the control API says of nodes, and what their kernels hold: a frozen enforcer is named, a wait ends in time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from support.lab_kernel import endpoints_by_api, endpoints_in_kernel
from support.lab_process import away, wait_synced

if TYPE_CHECKING:
    from support.lab_world import World

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.asyncio(loop_scope="session")]


async def states(world: World) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in map(json.loads, await world.cluster.ask_planner("nodes"))}


async def test_a_wait_names_the_frozen_node_and_ends_when_it_has_thawed(world: World) -> None:
    vip = (await world.service())["spec"]["clusterIP"]
    await world.endpoints(world.backends[:1])
    await world.expect_everywhere(vip, world.backends[:1])
    await wait_synced(world.cluster)
    name = f"{world.namespace}/web"
    frozen = world.cluster.nodes[0].name
    async with away(world.cluster, f"enforcer-{frozen}", "stopped"):
        await world.endpoints(world.backends)
        told = await world.cluster.ask_planner("wait", name, "1")
        assert told[0] == f"{len(world.cluster.nodes) - 1} of {len(world.cluster.nodes)} nodes have it"
        assert told[1].strip().startswith(f"{frozen} ")

        async def is_named() -> bool:
            return (await states(world))[frozen]["state"] in {"unresponsive", "disconnected"}

        await world.cluster.wait_until(is_named, "the frozen enforcer shows as such")
        reason = (await states(world))[frozen]["reason"]
        assert "silent" in reason or "acks late" in reason
    told = await world.cluster.ask_planner("wait", name, "30")
    assert told == [f"{len(world.cluster.nodes)} of {len(world.cluster.nodes)} nodes have it"]
    # No polling here: what the planner says is in the kernels is there.
    wanted = await endpoints_by_api(world.cluster)
    held = await endpoints_in_kernel(world.cluster, frozen)
    assert held[vip, "tcp", 80] == wanted[vip, "tcp", 80]
    assert len(held[vip, "tcp", 80]) == len(world.backends)
