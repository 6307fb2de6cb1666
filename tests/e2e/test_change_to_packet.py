# SPDX-License-Identifier: Apache-2.0
"""A change at the API server changes where packets go, on every node."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pointsman_lab.probe.outcome import Outcome
from support.lab_cluster import workload
from support.lab_process import wait_synced
from support.lab_world import OUTSIDE

if TYPE_CHECKING:
    from support.lab_world import World

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.asyncio(loop_scope="session")]


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
@pytest.mark.parametrize(("protocol", "port"), [("TCP", 80), ("UDP", 53)])
async def test_a_cluster_ip_follows_its_slices_from_creation_to_deletion(
    world: World, family: str, protocol: str, port: int
) -> None:
    one, two, three = world.backends
    vip = (await world.service(ipFamilies=[family]))["spec"]["clusterIP"]
    await world.expect_everywhere(vip, Outcome.REFUSED, port, protocol)
    await world.endpoints([one], family=family)
    await world.expect_everywhere(vip, [one], port, protocol)
    await world.endpoints([one, two, three], family=family)
    await world.expect_everywhere(vip, [one, two, three], port, protocol)
    await world.endpoints([two, three], family=family)
    await world.expect_everywhere(vip, [two, three], port, protocol)
    await world.kernels_follow_the_api()
    await world.endpoints([two, three], family=family, ready=False)
    await world.expect_everywhere(vip, Outcome.REFUSED, port, protocol)
    await world.delete_service()
    await world.expect_everywhere(vip, Outcome.TIMEOUT, port, protocol)


async def test_the_slices_of_a_service_add_up_and_one_that_goes_takes_only_its_own(world: World) -> None:
    one, two, three = world.backends
    vip = (await world.service())["spec"]["clusterIP"]
    await world.endpoints([one, two], slice_name="first")
    await world.endpoints([two, three], slice_name="second")
    await world.expect_everywhere(vip, [one, two, three])
    await world.delete_slice("first")
    await world.expect_everywhere(vip, [two, three])
    await world.delete_slice("second")
    await world.expect_everywhere(vip, Outcome.REFUSED)


async def test_a_slice_that_was_there_before_its_service_counts(world: World) -> None:
    await world.endpoints(world.backends[:1])
    vip = (await world.service())["spec"]["clusterIP"]
    await world.expect_everywhere(vip, world.backends[:1])


async def test_a_port_that_changes_takes_the_old_one_away(world: World) -> None:
    (one, *_) = world.backends
    vip = (await world.service())["spec"]["clusterIP"]
    await world.endpoints([one])
    await world.expect_everywhere(vip, [one], 80)
    await world.patch_service({"ports": [{"name": "http", "port": 8000, "targetPort": 8080}]})
    await world.expect_everywhere(vip, [one], 8000)
    await world.expect_everywhere(vip, Outcome.REFUSED, 80)


async def test_a_node_port_answers_on_every_node_until_the_type_changes(world: World) -> None:
    ports = (await world.service(type="NodePort"))["spec"]["ports"]
    await world.endpoints(world.backends)
    for node in world.cluster.nodes:
        await world.expect(OUTSIDE, node.address.ipv4, world.backends, ports[0]["nodePort"])
        await world.expect(OUTSIDE, node.address.ipv4, world.backends, ports[1]["nodePort"], "UDP")
    await world.patch_service({"type": "ClusterIP"})
    for node in world.cluster.nodes:
        await world.expect(OUTSIDE, node.address.ipv4, Outcome.REFUSED, ports[0]["nodePort"])


async def test_a_load_balancer_address_follows_type_and_traffic_policy(world: World) -> None:
    one, two, three = world.backends
    await world.service(type="LoadBalancer")
    await world.endpoints([one, two])
    cluster = world.cluster

    async def has_address() -> bool:
        return bool((await cluster.service(world.namespace, "web"))["status"].get("loadBalancer"))

    await cluster.wait_until(has_address, "an address")
    service = await cluster.service(world.namespace, "web")
    address = service["status"]["loadBalancer"]["ingress"][0]["ip"]
    for place in (OUTSIDE, *world.clients):
        await world.expect(place, address, [one, two])
    await world.patch_service({"externalTrafficPolicy": "Local"})
    for backend, wanted in ((one, [one]), (two, [two]), (three, Outcome.TIMEOUT)):
        await cluster.route_outside(address, backend.node)
        await world.expect(OUTSIDE, address, wanted)
    (probe,) = await cluster.probe(OUTSIDE, address, 80, count=1, timeout_seconds=0.3)
    assert probe.outcome is Outcome.TIMEOUT
    await cluster.route_outside(address, one.node)
    answer = (await cluster.connect(OUTSIDE, address, 80)).answer
    assert answer is not None
    assert answer.peer == cluster.topology.outside_address.ipv4
    await world.patch_service({"type": "ClusterIP", "externalTrafficPolicy": None})
    for place in world.clients:
        await world.expect(place, service["spec"]["clusterIP"], [one, two])

    async def is_unknown() -> bool:
        listings = [await cluster.node_exec(node.name, "nft", "list", "ruleset") for node in cluster.nodes]
        return not any(f"{address} ." in listing for listing in listings)

    await cluster.wait_until(is_unknown, "the address is gone")


async def test_an_external_ip_comes_and_goes(world: World) -> None:
    address = "192.0.2.7"
    await world.service(externalIPs=[address])
    await world.endpoints(world.backends)
    await world.cluster.route_outside(address, "node-2")
    for place in (OUTSIDE, *world.clients):
        await world.expect(place, address, world.backends)
    await world.patch_service({"externalIPs": None})
    await world.expect(OUTSIDE, address, Outcome.TIMEOUT)


async def test_pods_of_a_deployment_are_followed_up_down_and_away(world: World) -> None:
    cluster = world.cluster
    text = workload("roll", replicas=1, ipFamilyPolicy="PreferDualStack")
    await cluster.apply_text(text)
    service = await cluster.service("default", "roll")

    async def answers_are_those_of(count: int) -> None:
        await cluster.wait_deployed("default", "roll")
        pods = {pod["metadata"]["name"] for pod in await cluster.pods("default", app="roll")}
        assert len(pods) == count
        for vip in service["spec"]["clusterIPs"]:
            for place in world.clients:

                async def is_so(place: str = place, vip: str = vip) -> bool:
                    return {probe.pod for probe in await cluster.probe(place, vip, 80, count=40)} == pods

                await cluster.wait_until(is_so, f"{place} -> {vip}: {pods}")

    await answers_are_those_of(1)
    await cluster.scale("default", "roll", 4)
    await answers_are_those_of(4)
    await cluster.scale("default", "roll", 2)
    await answers_are_those_of(2)
    await cluster.delete_text(text)
    await world.expect_everywhere(service["spec"]["clusterIP"], Outcome.TIMEOUT)
    await world.kernels_follow_the_api()
    await wait_synced(cluster)
