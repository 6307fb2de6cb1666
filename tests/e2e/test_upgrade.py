# SPDX-License-Identifier: Apache-2.0
"""The guide to upgrades (docs/operating/upgrade.md), as far as a cluster without kubelets can go through it.

A rolling restart replaces one process after another, as the manifests have it: SIGTERM, nothing for a while, a new one.
Endpoints change meanwhile, and no connection may fail.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from support.lab_cluster import ALL_SERVICES, lab
from support.lab_process import away, wait_synced
from support.lab_world import World, fresh_namespace, start_backends, traffic_everywhere

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.asyncio(loop_scope="module")]
ENFORCERS = ("enforcer-node-1", "enforcer-node-2")
PLANNERS = ("planner-1", "planner-2")
WATCHERS = ("watcher-1", "watcher-2")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def two_of_each() -> AsyncIterator[World]:
    """As the base has it; planners give their nodes away within a second."""
    async with lab(nodes=2, watchers=2, planners=2, services=ALL_SERVICES) as cluster:
        for planner in PLANNERS:
            async with away(cluster, planner, "killed"):
                file = cluster.state.config / f"{planner}.yaml"
                file.write_text(f"{file.read_text()}\ndrainPeriod: 1s\n")
        backends = await start_backends(cluster)
        async with fresh_namespace(cluster, backends, "upgrade") as fresh:
            await wait_synced(cluster)
            yield fresh


async def test_a_rolling_restart_of_everything_costs_no_connection_and_no_change(two_of_each: World) -> None:
    world = two_of_each
    service = await world.service(type="NodePort")
    one, both = world.backends[:1], world.backends
    await world.endpoints(both)
    await world.expect_everywhere(service["spec"]["clusterIP"], both)
    async with traffic_everywhere(world, service) as flows:
        for number, process in enumerate((*WATCHERS, *PLANNERS, *ENFORCERS)):
            async with away(world.cluster, process, "ended"):
                await world.endpoints(both if number % 2 else one)
                await flows.enough(10)
            await wait_synced(world.cluster)
        await world.expect_everywhere(service["spec"]["clusterIP"], both)
        await world.kernels_follow_the_api()
