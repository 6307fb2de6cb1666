# SPDX-License-Identifier: Apache-2.0
"""The enforcer's command in userspace mode: with either kind of rules, and without rules and rights."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_model.names import Protocol, parse_address
from pointsman_model.plan import NodeFacts, ServicePlan
from support.enforcer_plans import cluster_ip, endpoints, key
from support.enforcer_process import EnforcerNode
from support.nft_world import ECHO_PORT, World
from support.traffic import REJECT, Reply, probe

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
PORT = 8080
RULES_SECONDS_MAX = 30.0
WEB = key("web")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World(Family.IPV4) as made:
        yield made


@pytest.fixture
def node(world: World, tmp_path: Path) -> Iterator[EnforcerNode]:
    facts = NodeFacts(name="node-1", addresses=(parse_address(world.at.node),))
    made = EnforcerNode(world.node, tmp_path, facts, clusterCIDR=world.at.pods)
    made.write_plan({WEB: web(world)})
    yield made
    made.run_by = ()
    made.command("--cleanup")


def web(world: World) -> ServicePlan:
    chosen = endpoints(world.at.pod1, world.at.pod2, port=ECHO_PORT)
    protocols = (Protocol.TCP, Protocol.UDP)
    return ServicePlan(ports=tuple(cluster_ip(world.at.cluster_ip, PORT, chosen, each) for each in protocols))


def answers(world: World, address: str) -> set[str]:
    """Who answers, and whom it sees: the node, at the address it has there."""
    found = [probe(world.pod, address, PORT) for _ in range(6)]
    return {f"{each.name} sees {each.peer}" if isinstance(each, Reply) else str(each) for each in found}


@pytest.mark.parametrize("redirect", ["nftables", "iptables"])
def test_rules_lead_to_the_proxy_and_clients_are_refused_at_once_after_a_crash(
    world: World, node: EnforcerNode, redirect: str
) -> None:
    node.configure(clusterCIDR=world.at.pods, mode="userspace", userspace={"redirect": redirect})
    proxied = {f"pod1 sees {world.at.gateway1}", f"pod2 sees {world.at.gateway2}"}
    with node.running():
        assert answers(world, world.at.cluster_ip) == proxied
        assert node.status()["mode"] == "userspace"
        metrics = node.get("http://127.0.0.1:10249/metrics")
        assert 'pointsman_enforcer_proxy_flows_begun_total{protocol="TCP"} 6.0' in metrics
    assert answers(world, world.at.cluster_ip) == {REJECT}
    with node.running():
        assert answers(world, world.at.cluster_ip) == proxied


@pytest.mark.parametrize("redirect", ["nftables", "iptables"])
def test_a_process_that_ends_in_order_is_missed_by_no_new_client(
    world: World, node: EnforcerNode, redirect: str
) -> None:
    node.configure(clusterCIDR=world.at.pods, mode="userspace", userspace={"redirect": redirect})
    with node.running() as process:
        process.terminate()
        over = threading.Event()

        def ask() -> list[set[str]]:
            found = []
            while not over.is_set():
                found.append(answers(world, world.at.cluster_ip))
            return found

        with ThreadPoolExecutor(1) as threads:
            asking = threads.submit(ask)
            process.wait(timeout=30)
            over.set()
            during = set().union(*asking.result())
    straight = {f"pod1 sees {world.at.pod}", f"pod2 sees {world.at.pod}"}
    assert REJECT not in during
    assert answers(world, world.at.cluster_ip) == straight
    with node.running():
        deadline = time.monotonic() + RULES_SECONDS_MAX
        while not (found := answers(world, world.at.cluster_ip)).isdisjoint(straight):
            assert REJECT not in found
            assert time.monotonic() < deadline, "rules do not lead to the proxy again"


def test_without_rules_and_rights_it_listens_at_the_addresses_given(world: World, node: EnforcerNode) -> None:
    before, node.run_by = world.node.ruleset(), ("unshare", "--user")
    places = {world.at.cluster_ip: world.at.node}
    node.configure(mode="userspace", userspace={"redirect": "none", "addresses": places})
    with node.running() as process:
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert "CapEff:\t0000000000000000" in status
        assert answers(world, world.at.node) == {f"pod1 sees {world.at.gateway1}", f"pod2 sees {world.at.gateway2}"}
        assert world.node.ruleset() == before
    assert answers(world, world.at.node) == {REJECT}
