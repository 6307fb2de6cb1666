# SPDX-License-Identifier: Apache-2.0
"""Somebody flushes a node's ruleset and nothing else happens: it is put right, and the planner knows who it was."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from support.lab_process import figure, wait_synced

if TYPE_CHECKING:
    from support.lab_world import World

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.asyncio(loop_scope="session")]

NODE = "node-2"


async def drift_of(world: World, node: str) -> dict[str, Any]:
    """What `pointsman-lab nodes` says of repairs on a node."""
    lines = [json.loads(line) for line in await world.cluster.ask_planner("nodes")]
    [found] = [line for line in lines if line["name"] == node]
    return found["drift"] or {"repairs": 0}


async def test_a_flushed_ruleset_comes_back_by_itself_and_the_planner_says_who_flushed_it(world: World) -> None:
    service = await world.service()
    vip = service["spec"]["clusterIP"]
    await world.endpoints(world.backends)
    await world.expect_everywhere(vip, world.backends)
    await wait_synced(world.cluster)
    repairs = (await drift_of(world, NODE))["repairs"]
    changes = await figure(world.cluster, f"enforcer-{NODE}", "kubeproxy_sync_proxy_rules_service_changes_total")
    await world.cluster.node_exec(NODE, "nft", "flush", "ruleset")

    async def is_repaired() -> bool:
        return int((await drift_of(world, NODE))["repairs"]) > repairs

    await world.cluster.wait_until(is_repaired, "the repair is known upstream")
    drift = await drift_of(world, NODE)
    assert (drift["process"], "table" in drift["touched"]) == ("nft", True)
    assert 0 < drift["seconds"] < 2
    await world.expect_everywhere(vip, world.backends)
    await world.kernels_follow_the_api()
    after = await figure(world.cluster, f"enforcer-{NODE}", "kubeproxy_sync_proxy_rules_service_changes_total")
    assert after == changes, "no event was needed"
    counted = "pointsman_enforcer_drift_repairs_total"
    assert await figure(world.cluster, f"enforcer-{NODE}", counted, outcome="rebuilt") >= 1
    assert (await drift_of(world, "node-1"))["repairs"] == 0
