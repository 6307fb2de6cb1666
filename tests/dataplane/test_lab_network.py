# SPDX-License-Identifier: Apache-2.0
"""The lab's network without any proxy: who reaches whom, and with which address."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from pointsman_lab.probe.outcome import Outcome
from support.lab_cluster import lab, workload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pointsman_lab.cluster import Cluster

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    async with lab(nodes=3, zones=2) as running:
        await running.apply_text(workload(replicas=6))
        await running.wait_deployed("default", "web")
        yield running


async def places(cluster: Cluster) -> dict[str, tuple[str, list[str]]]:
    """Pod name -> (node, addresses)."""
    return {
        pod["metadata"]["name"]: (pod["spec"]["nodeName"], [entry["ip"] for entry in pod["status"]["podIPs"]])
        for pod in await cluster.pods("default")
    }


async def test_replicas_are_spread_over_all_nodes(cluster: Cluster) -> None:
    nodes = [node for node, _ in (await places(cluster)).values()]
    assert sorted(nodes) == ["node-1", "node-1", "node-2", "node-2", "node-3", "node-3"]


@pytest.mark.parametrize(("protocol", "port"), [("TCP", 8080), ("UDP", 5353)])
async def test_every_pod_reaches_every_pod_by_its_own_address(cluster: Cluster, protocol: str, port: int) -> None:
    pods = await places(cluster)
    for source, (_, source_addresses) in pods.items():
        for target, (node, addresses) in pods.items():
            for own, address in zip(source_addresses, addresses, strict=True):
                probe = await cluster.connect(f"default/{source}", address, port, protocol)
                assert probe.answer is not None, (source, target, address, probe)
                assert (probe.answer.pod, probe.answer.node) == (target, node)
                assert (probe.answer.peer, probe.answer.local) == (own, address)
                assert (probe.answer.protocol, probe.answer.local_port) == (protocol, port)


async def test_nodes_reach_pods_by_their_node_address(cluster: Cluster) -> None:
    _, addresses = next(iter((await places(cluster)).values()))
    for node in cluster.nodes:
        for own, address in zip(node.address, addresses, strict=True):
            probe = await cluster.connect(node.name, address, 8080)
            assert probe.answer is not None
            assert probe.answer.peer == own


async def test_a_port_nobody_serves_is_refused(cluster: Cluster) -> None:
    pods = await places(cluster)
    for _, addresses in pods.values():
        for address in addresses:
            assert (await cluster.connect("node-1", address, 81)).outcome is Outcome.REFUSED
            assert (await cluster.connect("node-1", address, 81, "UDP")).outcome is Outcome.REFUSED


async def test_without_a_proxy_a_service_address_leads_nowhere(cluster: Cluster) -> None:
    pod = next(iter(await places(cluster)))
    address = (await cluster.service("default", "web"))["spec"]["clusterIP"]
    probe = await cluster.connect(f"default/{pod}", address, 80, timeout_seconds=0.3)
    assert probe.outcome is Outcome.TIMEOUT


LISTENER = """
import socket, sys
server = socket.create_server(("0.0.0.0", 9000))
for _ in range(int(sys.argv[1])):
    print(server.accept()[1][0])
"""


async def test_outside_reaches_node_addresses_from_each_client_address(cluster: Cluster) -> None:
    sources = [cluster.topology.outside_address, *cluster.topology.client_addresses]
    server = asyncio.create_task(cluster.execute("node-2", ["python3", "-c", LISTENER, str(len(sources))]))

    async def is_open() -> bool:
        return ":9000" in await cluster.node_exec("node-2", "ss", "-Hltn")

    await cluster.wait_until(is_open, "listener on node-2")
    for source in sources:
        await cluster.connect("outside", cluster.topology.node("node-2").address.ipv4, 9000, source=source.ipv4)
    assert (await server).stdout.split() == [source.ipv4 for source in sources]


async def test_a_partitioned_node_is_silent_until_it_heals(cluster: Cluster) -> None:
    pods = await places(cluster)
    there = next(addresses[0] for node, addresses in pods.values() if node == "node-2")
    source = next(name for name, (node, _) in pods.items() if node == "node-1")
    neighbour = next(a[0] for name, (node, a) in pods.items() if node == "node-1" and name != source)
    await cluster.partition("node-2")
    probe = await cluster.connect(f"default/{source}", there, 8080, timeout_seconds=0.3)
    assert probe.outcome is Outcome.TIMEOUT
    assert (await cluster.connect(f"default/{source}", neighbour, 8080)).outcome is Outcome.ANSWER
    await cluster.heal("node-2")
    assert (await cluster.connect(f"default/{source}", there, 8080, timeout_seconds=5)).outcome is Outcome.ANSWER


async def test_thousands_of_probes_are_answered(cluster: Cluster) -> None:
    pods = await places(cluster)
    source, (_, addresses) = next(iter(pods.items()))
    probes = await cluster.probe(f"default/{source}", addresses[1], 8080, count=2000, timeout_seconds=5)
    assert {probe.outcome for probe in probes} == {Outcome.ANSWER}
    assert {probe.pod for probe in probes} == {source}
