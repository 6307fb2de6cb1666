# SPDX-License-Identifier: Apache-2.0
"""Objects as no API server should accept them: they are named once, and harm nobody else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pointsman_lab.apiserver.resources import ENDPOINTSLICES, NODES, SERVICES
from support.lab_kernel import endpoints_in_kernel
from support.lab_process import enforcer_status, figure, wait_synced
from support.lab_world import OUTSIDE, traffic_everywhere

if TYPE_CHECKING:
    from support.lab_world import World

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.asyncio(loop_scope="session")]

REJECTED = "pointsman_watcher_rejected_objects_total"
FAULTY = "pointsman_watcher_faulty_fields_total"


def slice_of(world: World, service: str, name: str, **fields: Any) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": world.namespace,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [],
        **fields,
    }


async def create(world: World, body: dict[str, Any]) -> None:
    await world.cluster.api.create(ENDPOINTSLICES, body, world.namespace)


def lines_about(world: World, name: str) -> list[str]:
    log = (world.cluster.state.logs / "watcher.log").read_text()
    return [line for line in log.splitlines() if f"{world.namespace}/{name}" in line and '"warning"' in line]


async def wait_lines(world: World, name: str, count: int) -> None:
    async def are_there() -> bool:
        return len(lines_about(world, name)) >= count

    await world.cluster.wait_until(are_there, f"{count} warnings about {name}")


@pytest.mark.parametrize(
    ("name", "fields", "field"),
    [
        ("hints", {"endpoints": [{"addresses": ["10.244.9.1"], "hints": {"forZones": [{"name": 7}]}}]}, "forZones"),
        ("conditions", {"endpoints": [{"addresses": ["10.244.9.2"], "conditions": {"ready": "yes"}}]}, "ready"),
        ("zone", {"endpoints": [{"addresses": ["10.244.9.3"], "zone": {}}]}, "zone"),
        ("port-name", {"ports": [{"name": 7, "port": 80}], "endpoints": [{"addresses": ["10.244.9.4"]}]}, "name"),
    ],
)
async def test_a_slice_of_wrong_types_is_left_out_and_the_rest_of_its_service_answers(
    world: World, name: str, fields: dict[str, Any], field: str
) -> None:
    vip = (await world.service())["spec"]["clusterIP"]
    await world.endpoints(world.backends)
    rejected = await figure(world.cluster, "watcher", REJECTED)
    await create(world, slice_of(world, "web", name, **fields))
    await wait_lines(world, name, 1)
    note = {"metadata": {"annotations": {"example.org/note": "seen again"}}}
    await world.cluster.api.patch(ENDPOINTSLICES, name, note, world.namespace)
    await world.endpoints(world.backends[:2])  # comes after it in the same watch
    await world.expect_everywhere(vip, world.backends[:2])
    assert field in lines_about(world, name)[0]
    assert len(lines_about(world, name)) == 1
    assert await figure(world.cluster, "watcher", REJECTED) == rejected + 1


async def test_an_object_that_turns_bad_keeps_its_last_good_state(world: World) -> None:
    vip = (await world.service())["spec"]["clusterIP"]
    await world.endpoints(world.backends)
    await world.expect_everywhere(vip, world.backends)
    bad = {"status": {"loadBalancer": {"ingress": [{"ip": 7}, {"ip": "999.1.1.1"}, None]}}}
    await world.cluster.api.patch(SERVICES, "web", bad, world.namespace, subresource="status")
    await wait_lines(world, "web", 1)
    await world.endpoints(world.backends[:2])
    await world.expect_everywhere(vip, world.backends[:2])
    good: dict[str, Any] = {"status": {"loadBalancer": {"ingress": None}}}
    await world.cluster.api.patch(SERVICES, "web", good, world.namespace, subresource="status")
    await world.patch_service({"ports": [{"name": "http", "port": 81, "targetPort": 8080}]})
    await world.expect_everywhere(vip, world.backends[:2], 81)


async def test_an_address_that_cannot_be_an_endpoint_costs_only_itself(world: World) -> None:
    vip = (await world.service())["spec"]["clusterIP"]
    faulty = await figure(world.cluster, "watcher", FAULTY)
    usable = [{"addresses": [backend.ipv4], "nodeName": backend.node} for backend in world.backends]
    addresses = ("127.0.0.1", "0.0.0.0", "224.0.0.1")  # noqa: S104  # an endpoint, not an address to listen at
    await create(
        world,
        slice_of(world, "web", "mixed", endpoints=[*usable, *({"addresses": [address]} for address in addresses)]),
    )
    await world.expect_everywhere(vip, world.backends)
    await world.kernels_hold(vip, {(backend.ipv4, 8080) for backend in world.backends})
    assert len(lines_about(world, "mixed")) == 1
    assert await figure(world.cluster, "watcher", FAULTY) == faulty + len(addresses)


async def test_a_node_with_nonsense_addresses_keeps_its_services(world: World) -> None:
    vip = (await world.service())["spec"]["clusterIP"]
    await world.endpoints(world.backends)
    api = world.cluster.api
    good = (await api.get(NODES, "node-3"))["status"]["addresses"]
    nonsense = [{"type": 5, "address": []}, {"type": "InternalIP", "address": "nonsense"}]
    await api.patch(NODES, "node-3", {"status": {"addresses": [*good, *nonsense]}}, subresource="status")
    await world.expect_everywhere(vip, world.backends)
    await world.endpoints(world.backends[1:])
    await world.expect_everywhere(vip, world.backends[1:])
    await api.patch(NODES, "node-3", {"status": {"addresses": good}}, subresource="status")
    await wait_synced(world.cluster)


async def test_external_addresses_that_belong_to_others_take_nothing_from_them(world: World) -> None:
    victim = await world.service("victim", type="NodePort")
    await world.endpoints(world.backends[:2], "victim")
    vip = victim["spec"]["clusterIP"]
    await world.expect_everywhere(vip, world.backends[:2])
    async with traffic_everywhere(world, victim) as flows:
        addresses = [vip, "127.0.0.1", "0.0.0.0", "224.0.0.1", "::ffff:198.51.100.9"]  # noqa: S104  # claims, not sockets
        await world.service("claimant", externalIPs=addresses)
        await world.endpoints(world.backends[2:], "claimant")
        claimed = (await world.cluster.service(world.namespace, "claimant"))["spec"]["clusterIP"]
        await world.expect_everywhere(claimed, world.backends[2:])
        await world.expect_everywhere(vip, world.backends[:2])
        await flows.enough()
    await wait_synced(world.cluster)
    for node in world.cluster.nodes:
        assert (await enforcer_status(world.cluster, node.name))["failed"] == {}


async def test_huge_objects_arrive_whole_and_the_next_change_with_them(world: World) -> None:
    vip = (await world.service(type="NodePort"))["spec"]["clusterIP"]
    await world.endpoints(world.backends)
    await world.expect_everywhere(vip, world.backends)
    service = await world.cluster.service(world.namespace, "web")
    many = await world.service("many")
    async with traffic_everywhere(world, service) as flows:
        huge = {"metadata": {"annotations": {"example.org/huge": "x" * 1_000_000}}}
        await world.cluster.api.patch(SERVICES, "web", huge, world.namespace)
        addresses = [f"10.250.{number // 200}.{number % 200 + 1}" for number in range(1000)]
        endpoints = [{"addresses": [address], "nodeName": "node-1"} for address in addresses]
        await create(world, slice_of(world, "many", "many", endpoints=endpoints))
        await world.kernels_hold(many["spec"]["clusterIP"], {(address, 8080) for address in addresses})
        await flows.enough()
    await world.endpoints(world.backends[1:])
    await world.expect_everywhere(vip, world.backends[1:])
    await world.expect(OUTSIDE, world.cluster.nodes[0].address.ipv4, world.backends[1:], node_port(service))
    await wait_synced(world.cluster)
    assert len(await endpoints_in_kernel(world.cluster, "node-1")) >= 3


def node_port(service: dict[str, Any]) -> int:
    return int(service["spec"]["ports"][0]["nodePort"])
