# SPDX-License-Identifier: Apache-2.0
"""The example controller on a whole cluster: shares of real connections, and no step before every node has the last."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pointsman_lab.apiserver.resources import ENDPOINTSLICES
from pointsman_lab.pki import Pki
from support.lab_process import wait_synced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pointsman_lab.net.process import ExecResult
    from support.lab_world import Backend, World

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.asyncio(loop_scope="session")]

CANARY = Path(__file__).resolve().parents[2] / "examples" / "canary.py"
_PROBES = 400


async def stage(world: World) -> str:
    """A Service with two stable pods and a canary; its address."""
    vip: str = (await world.service())["spec"]["clusterIP"]
    names = ("web-stable-1", "web-stable-2", "web-canary-1")
    listed = [
        {
            "addresses": [backend.ipv4],
            "conditions": {"ready": True},
            "nodeName": backend.node,
            "targetRef": {"kind": "Pod", "namespace": world.namespace, "name": name},
        }
        for backend, name in zip(world.backends, names, strict=True)
    ]
    await world.endpoints(world.backends)
    await world.cluster.api.patch(ENDPOINTSLICES, "web-ipv4", {"endpoints": listed}, world.namespace)
    await world.expect_everywhere(vip, world.backends)
    await wait_synced(world.cluster)
    return vip


async def shift(world: World, *shares: int) -> ExecResult:
    """Run the controller on a planner's machine."""
    cluster = world.cluster
    planner = cluster.topology.planners[0]
    identity = Pki(directory=cluster.state.pki).admin
    tls = f"POINTSMAN_TLS={identity.ca} {identity.key} {identity.certificate}"
    words = (f"{planner.address.ipv4}:7444", world.namespace, "web", "web-stable-", "web-canary-", *map(str, shares))
    return await cluster.execute(planner.name, ["env", tls, sys.executable, str(CANARY), *words], timeout_seconds=60)


async def share_of(world: World, vip: str, pod: Backend, places: Sequence[str]) -> float:
    """Percent of new connections that a pod got."""
    probes = [probe for place in places for probe in await world.cluster.probe(place, vip, 80, count=_PROBES)]
    assert all(probe.pod for probe in probes), "a connection failed"
    return 100 * sum(probe.pod == pod.name for probe in probes) / len(probes)


async def test_a_canary_gets_its_share_of_connections_on_every_node(world: World) -> None:
    vip, canary = await stage(world), world.backends[2]
    for share, tolerance in ((10, 8), (50, 13)):  # five standard deviations
        result = await shift(world, share)
        assert (result.code, result.stdout) == (0, f"{share} %: on all 3 nodes\n"), result.stderr
        for client in world.clients:
            seen = await share_of(world, vip, canary, [client])
            assert abs(seen - share) < tolerance, f"{client}: {seen} %"
    result = await shift(world, 25, 100)
    assert result.stdout.splitlines() == ["25 %: on all 3 nodes", "100 %: on all 3 nodes"], result.stderr
    assert await share_of(world, vip, canary, world.clients) == 100.0


async def test_no_step_is_taken_while_a_node_lags(world: World) -> None:
    vip, canary = await stage(world), world.backends[2]
    await world.cluster.signal("enforcer-node-3", "STOP")
    running = asyncio.create_task(shift(world, 20, 80))
    first = world.clients[:2]

    async def has_begun() -> bool:
        return abs(await share_of(world, vip, canary, first) - 20) < 8

    await world.cluster.wait_until(has_begun, "the other nodes have the first step")
    for _ in range(3):
        assert await has_begun(), "the second step was taken although a node lags"
    assert abs(await share_of(world, vip, canary, world.clients[2:]) - 33) < 13, "the frozen node has the rules it had"
    await world.cluster.signal("enforcer-node-3", "CONT")
    result = await running
    assert result.stdout.splitlines() == ["20 %: on all 3 nodes", "80 %: on all 3 nodes"], result.stderr
    assert abs(await share_of(world, vip, canary, world.clients) - 80) < 6
