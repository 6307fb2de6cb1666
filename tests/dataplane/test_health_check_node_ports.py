# SPDX-License-Identifier: Apache-2.0
"""Health check node ports of the real command in a node's namespace: where they answer, and when addresses change."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_model.names import parse_address
from pointsman_model.plan import HealthCheck, NodeFacts, ServicePlan
from support.enforcer_plans import key
from support.enforcer_process import EnforcerNode
from support.nft_world import World

pytestmark = pytest.mark.root

PORT = 32100
DEADLINE_SECONDS = 30.0


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World(Family.IPV4) as made:
        yield made


@pytest.fixture
def node(world: World, tmp_path: Path) -> Iterator[EnforcerNode]:
    facts = NodeFacts(name="node-1", addresses=(parse_address(world.at.node),))
    made = EnforcerNode(world.node, tmp_path, facts, clusterCIDR=world.at.pods)
    made.write_plan({key(1): ServicePlan(health_check=HealthCheck(node_port=PORT, local_endpoints=3))})
    yield made
    made.command("--cleanup")


def ask(node: EnforcerNode, address: str, port: int = PORT) -> dict[str, Any] | None:
    """What a load balancer hears, None when nobody listens."""
    body = node.namespace.run("curl", "-s", "--max-time", "10", f"http://{address}:{port}/", check=False)
    found: dict[str, Any] | None = json.loads(body) if body else None
    return found


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_they_answer_on_the_primary_address_only(world: World, node: EnforcerNode) -> None:
    with node.running():
        eventually(lambda: ask(node, world.at.node) is not None)
        assert ask(node, world.at.node) == {
            "service": {"namespace": "default", "name": "svc-1"},
            "localEndpoints": 3,
            "serviceProxyHealthy": True,
        }
        assert ask(node, world.at.secondary) is None
        assert ask(node, world.at.loopback) is None


def test_with_all_addresses_they_answer_on_all_of_both_families(world: World, node: EnforcerNode) -> None:
    node.configure(clusterCIDR=world.at.pods, nodePortAddresses=["0.0.0.0/0", "::/0"])
    with node.running():
        for address in (world.at.node, world.at.secondary, world.at.loopback, "[::1]"):
            eventually(lambda address=address: ask(node, address) is not None)  # type: ignore[misc]  # bound at once


def test_an_address_that_comes_within_the_blocks_is_served_at_once(world: World, node: EnforcerNode) -> None:
    node.configure(clusterCIDR=world.at.pods, nodePortAddresses=["198.51.100.0/24"])
    with node.running():
        assert ask(node, world.at.node) is None
        node.namespace.run("ip", "address", "add", "198.51.100.7/32", "dev", "lo")
        try:
            eventually(lambda: ask(node, "198.51.100.7") is not None)
        finally:
            node.namespace.run("ip", "address", "delete", "198.51.100.7/32", "dev", "lo")


def test_healthz_answers_ipv6_too_and_a_busy_port_is_shown(world: World, node: EnforcerNode) -> None:
    occupier = node.namespace.popen("python3", "-m", "http.server", "--bind", world.at.node, str(PORT))
    try:
        eventually(lambda: "Directory" in node.namespace.run("curl", "-s", f"{world.at.node}:{PORT}/", check=False))
        with node.running():
            assert '"nodeEligible": true' in node.get("http://[::1]:10256/healthz")
            eventually(lambda: bool(node.status()["healthChecksNotServed"]))
            assert node.status()["healthChecksNotServed"] == {
                f"default/svc-1 at {world.at.node} port {PORT}": "Address already in use"
            }
    finally:
        occupier.kill()
        occupier.wait()
