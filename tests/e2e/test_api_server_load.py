# SPDX-License-Identifier: Apache-2.0
"""What Pointsman asks of the API server does not depend on the number of nodes."""

from __future__ import annotations

import platform
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pointsman_lab.apiserver.resources import NODES
from pointsman_lab.controller.loop import timestamp
from pointsman_lab.controller.nodes import node_object, node_status
from support.lab_cluster import ALL_SERVICES, lab
from support.lab_process import bring_back, take_away, wait_synced
from support.lab_world import Backend, World, fresh_namespace

if TYPE_CHECKING:
    from pointsman_lab.cluster import Cluster

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.asyncio(loop_scope="session")]

WATCHES = {"endpointslices": 1, "nodes": 1, "servicecidrs": 1, "services": 1}
NOBODY = Backend(name="nobody", node="node-1", ipv4="10.244.1.9", ipv6="fd00:10:244:1::9")
CHANGES = 10


@asynccontextmanager
async def quiet_lab(nodes: int) -> AsyncIterator[Cluster]:
    """A lab in which nobody but Pointsman asks the API server anything by itself."""
    async with lab(nodes=nodes, zones=1, services=ALL_SERVICES, controllers=False) as cluster:
        for node in cluster.nodes:
            await cluster.api.create(NODES, node_object(node))
            status = {"status": node_status(node, timestamp(), kernel_version=platform.release())}
            await cluster.api.patch(NODES, node.name, status, subresource="status")
        await wait_synced(cluster)
        yield cluster


async def stats(cluster: Cluster) -> dict[str, Any]:
    return dict(await cluster.api.request("GET", "/lab/v1/stats"))


async def change(world: World) -> None:
    await world.service()
    for number in range(CHANGES):
        await world.endpoints([NOBODY] if number % 2 else [])
    await world.kernels_follow_the_api()
    await wait_synced(world.cluster)


async def asked(nodes: int) -> dict[str, Any]:
    """What is asked for some changes, and for restarts of planner and enforcers, with so many nodes."""
    async with quiet_lab(nodes) as cluster, fresh_namespace(cluster, (), "load") as world:
        start = await stats(cluster)
        assert start["openWatches"] == WATCHES
        await cluster.api.request("DELETE", "/lab/v1/stats")
        await change(world)
        for process in ("planner", *(f"enforcer-{node.name}" for node in cluster.nodes)):
            await take_away(cluster, process, "killed")
            await bring_back(cluster, process)
        await wait_synced(cluster)
        end = await stats(cluster)
        assert end["openWatches"] == WATCHES
        return {
            "watches opened at the start": start["requests"]["watch"],
            "watches opened later": end["requests"].get("watch"),
            "events": end["watchEvents"]["endpointslices"],
        }


async def test_four_nodes_ask_the_api_server_for_no_more_than_one_node(world: World) -> None:
    one, four = await asked(1), await asked(4)
    assert one == four
    assert one["watches opened at the start"] == WATCHES
    assert one["watches opened later"] is None


async def test_the_watcher_is_the_only_one_of_pointsman_that_watches(world: World) -> None:
    cluster = world.cluster
    before = await stats(cluster)
    await take_away(cluster, "watcher", "killed")

    async def are_closed() -> bool:
        left = (await stats(cluster))["openWatches"]
        return {kind: before["openWatches"][kind] - left.get(kind, 0) for kind in WATCHES} == WATCHES

    await cluster.wait_until(are_closed, "the watches of the watcher are closed")
    await bring_back(cluster, "watcher")
    await wait_synced(cluster)
    assert (await stats(cluster))["openWatches"] == before["openWatches"]
