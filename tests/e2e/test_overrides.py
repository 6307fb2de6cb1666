# SPDX-License-Identifier: Apache-2.0
"""Overrides in real packets: drained, pinned and registered endpoints, leases that end, and restarts under drains."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pointsman_lab.pki import Pki
from support.lab_process import away, wait_synced

if TYPE_CHECKING:
    from support.lab_world import World

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.asyncio(loop_scope="session")]

CALL = Path(__file__).resolve().parents[1] / "support" / "override_call.py"
ONE_SOCKET = {"persistent": True, "workers": 1, "interval_seconds": 0.01}


async def call(world: World, method: str, request: dict[str, Any]) -> tuple[int, str]:
    """Exit status and what a planner answered."""
    cluster = world.cluster
    planner = cluster.topology.planners[0]
    admin = Pki(directory=cluster.state.pki).admin
    words = [f"{planner.address.ipv4}:7444", str(admin.ca), str(admin.key), str(admin.certificate), method]
    result = await cluster.execute(planner.name, [sys.executable, str(CALL), *words], text=json.dumps(request))
    return result.code, result.stdout or result.stderr


async def apply(world: World, name: str, ttl: str = "", **kind: Any) -> dict[str, Any]:
    spec = {"service_name": "web", **({"ttl": ttl} if ttl else {}), **kind}
    wish = {"name": {"namespace": world.namespace, "name": name}, "owner": "e2e", "spec": spec}
    code, answer = await call(world, "ApplyOverride", {"override": wish})
    assert code == 0, answer
    found: dict[str, Any] = json.loads(answer)["override"]
    return found


async def delete(world: World, override: dict[str, Any]) -> None:
    code, answer = await call(world, "DeleteOverride", {"name": override["name"], "etag": override["etag"]})
    assert code == 0, answer


def at(ip: str) -> dict[str, str]:
    return {"address": base64.b64encode(ipaddress.ip_address(ip).packed).decode()}


async def test_a_drained_pod_keeps_its_flows_and_gets_no_new_ones(world: World) -> None:
    one, two, _ = world.backends
    vip = (await world.service())["spec"]["clusterIP"]
    await world.endpoints([one])
    await world.expect_everywhere(vip, [one], 53, "UDP")
    client = world.clients[0]
    async with (
        world.cluster.traffic(client, vip, 53, "UDP", **ONE_SOCKET) as flow,
        world.cluster.session(client, vip, 80) as ask,
    ):
        await flow.wait_answer_of(one.name)
        await world.endpoints([one, two])
        drained = await apply(world, "drain", drain={"endpoints": at(one.ipv4)})
        for port, protocol in ((80, "TCP"), (53, "UDP")):
            await world.expect_everywhere(vip, [two], port, protocol)
        before = await flow.report()

        async def has_gone_on() -> bool:
            return (await flow.report()).by_pod[one.name] > before.by_pod[one.name] + 20

        await world.cluster.wait_until(has_gone_on, "twenty more answers of the drained pod")
        assert (await ask()).pod == one.name
        assert set((await flow.report()).by_pod) == {one.name}
    await delete(world, drained)
    await world.expect_everywhere(vip, [one, two])


async def test_a_node_is_drained_for_every_service_at_once(world: World) -> None:
    one, two, three = world.backends
    vip = (await world.service())["spec"]["clusterIP"]
    await world.endpoints(world.backends)
    await world.expect_everywhere(vip, world.backends)
    wish = {"name": {"name": "node-1-down"}, "owner": "e2e", "spec": {"drain": {"endpoints": {"node_name": one.node}}}}
    code, answer = await call(world, "ApplyOverride", {"override": wish})
    assert code == 0, answer
    await world.expect_everywhere(vip, [two, three])
    await delete(world, json.loads(answer)["override"])
    await world.expect_everywhere(vip, world.backends)


async def test_a_pinned_service_uses_its_subset_and_nothing_else(world: World) -> None:
    _, two, three = world.backends
    vip = (await world.service())["spec"]["clusterIP"]
    await world.endpoints(world.backends)
    pinned = await apply(world, "pin", pin={"endpoints": [at(two.ipv4), at(three.ipv4)]})
    await world.expect_everywhere(vip, [two, three])
    await delete(world, pinned)
    await world.expect_everywhere(vip, world.backends)


async def test_a_registered_endpoint_serves_as_long_as_its_lease_is_renewed(world: World) -> None:
    one, _, machine = world.backends
    vip = (await world.service())["spec"]["clusterIP"]
    await world.endpoints([one])
    ports = [{"name": "http", "protocol": "PROTOCOL_TCP", "port": 8080}]
    lease = await apply(world, "vm", "2s", register={"ports": ports, "endpoints": [at(machine.ipv4)]})
    await world.expect_everywhere(vip, [one, machine])
    for _ in range(4):
        await asyncio.sleep(0.6)
        code, answer = await call(world, "RenewOverride", {"name": lease["name"]})
        assert code == 0, answer
    await world.expect(world.clients[0], vip, [one, machine])
    await world.expect_everywhere(vip, [one])
    assert (await call(world, "RenewOverride", {"name": lease["name"]}))[1].startswith("NOT_FOUND")


async def test_nothing_gets_through_to_a_drained_pod_while_planner_and_store_restart(world: World) -> None:
    one, two, three = world.backends
    vip = (await world.service())["spec"]["clusterIP"]
    await world.endpoints(world.backends)
    drained = await apply(world, "drain", drain={"endpoints": at(one.ipv4)})
    await world.expect_everywhere(vip, [two, three])
    planner = world.cluster.topology.planners[0].name
    async with world.cluster.traffic(world.clients[1], vip, 80) as traffic:
        async with away(world.cluster, planner):
            pass
        await wait_synced(world.cluster)
        async with away(world.cluster, "redis"):
            code, answer = await call(world, "DeleteOverride", {"name": drained["name"], "etag": drained["etag"]})
            assert (code, answer.startswith("UNAVAILABLE")) == (1, True), answer
        await world.endpoints([one, two])
        await world.endpoints([one, two, three])
        await wait_synced(world.cluster)
    assert traffic.last.by_pod.keys() == {two.name, three.name}

    async def is_deleted() -> bool:
        words = {"name": drained["name"], "etag": drained["etag"]}
        return "UNAVAILABLE" not in (await call(world, "DeleteOverride", words))[1]

    await world.cluster.wait_until(is_deleted, "the store takes changes again")
    await world.expect_everywhere(vip, world.backends)
