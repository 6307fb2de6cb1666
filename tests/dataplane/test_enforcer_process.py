# SPDX-License-Identifier: Apache-2.0
"""The enforcer's command on a real kernel: plan on disk, restart under traffic, foreign tables, cleanup, dry run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_model.names import Protocol, parse_address, parse_prefix
from pointsman_model.plan import NodeFacts, ServicePlan
from support.enforcer_plans import cluster_ip, endpoints, key
from support.enforcer_process import EnforcerNode
from support.nft_world import World
from support.traffic import REJECT, Reply, answered, probe, seen

pytestmark = pytest.mark.root

FOREIGN = """
table inet others {
    set addresses { type ipv4_addr; elements = { 10.9.9.9 } }
    chain input { type filter hook input priority 10; policy accept; ip saddr @addresses counter accept; }
}
table ip pointsman-lookalike {
    chain services {
    }
}
"""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World(Family.IPV4) as made:
        yield made


@pytest.fixture
def node(world: World, tmp_path: Path) -> Iterator[EnforcerNode]:
    facts = NodeFacts(
        name="node-1",
        addresses=(parse_address(world.at.node),),
        service_cidrs=(parse_prefix(world.at.service_cidr),),
    )
    made = EnforcerNode(world.node, tmp_path, facts, clusterCIDR=world.at.pods)
    yield made
    made.command("--cleanup")


def service(world: World, *pods: str) -> ServicePlan:
    chosen = endpoints(*pods)
    return ServicePlan(
        ports=(
            cluster_ip(world.at.cluster_ip, 80, chosen),
            cluster_ip(world.at.cluster_ip, 80, chosen, Protocol.UDP),
        )
    )


@contextmanager
def traffic(world: World) -> Iterator[list[Reply | str]]:
    """New connections from a pod to the service, one after the other, until the block ends."""
    replies: list[Reply | str] = []
    over = threading.Event()

    def connect() -> None:
        while not over.is_set():
            replies.append(probe(world.pod, world.at.cluster_ip, 80))

    thread = threading.Thread(target=connect)
    thread.start()
    try:
        yield replies
    finally:
        over.set()
        thread.join()


def test_plan_on_disk_moves_packets_before_any_planner_answers(world: World, node: EnforcerNode) -> None:
    node.write_plan({key(1): service(world, world.at.pod1, world.at.pod2)})
    with node.running():
        assert seen(world.pod, world.at.cluster_ip) == ({"pod1", "pod2"}, {world.at.pod})
        assert seen(world.pod, world.at.cluster_ip, udp=True)[0] == {"pod1", "pod2"}
        assert answered(world.client, world.at.cluster_ip).peer in {world.at.gateway1, world.at.gateway2}
        assert probe(world.pod, world.at.cluster_ip, 81) == REJECT
        assert probe(world.pod, world.at.unallocated, 80, silent=True) == "DROP"
        assert '"healthy": true' in node.get("http://127.0.0.1:10256/healthz")
        assert node.get("http://127.0.0.1:10249/proxyMode") == "nftables"
        assert "kubeproxy_sync_proxy_rules_duration_seconds_count" in node.get("http://127.0.0.1:10249/metrics")
        assert '"clusterCIDR": "10.0.0.0/16"' in node.get("http://127.0.0.1:10249/configz")
        status = node.status()
        assert status["digest"] == status["programmedDigest"]


def test_kill_and_restart_under_traffic_lose_no_connection(world: World, node: EnforcerNode) -> None:
    node.write_plan({key(1): service(world, world.at.pod1, world.at.pod2)})
    with node.running():
        before = world.node.ruleset()
    with traffic(world) as replies:
        for _ in range(2):
            with node.running():
                pass
        node.write_plan({key(1): service(world, world.at.pod1)})
        with node.running():
            assert {answered(world.pod, world.at.cluster_ip).name for _ in range(20)} == {"pod1"}
    assert len(replies) > 20
    assert [reply for reply in replies if isinstance(reply, str)] == []
    assert before.count("goto cluster-2") == 2


def test_a_restart_with_nothing_changed_changes_nothing(world: World, node: EnforcerNode) -> None:
    node.write_plan({key(1): service(world, world.at.pod1, world.at.pod2)})
    with node.running():
        before = world.node.ruleset()
    generation = world.nft.generation()
    with node.running():
        assert world.node.ruleset() == before
    probes = 2  # the table that is tried out and taken away, once for each family
    assert world.nft.generation() - generation <= probes


def test_changed_settings_rewrite_the_rules_under_traffic(world: World, node: EnforcerNode) -> None:
    node.write_plan({key(1): service(world, world.at.pod1, world.at.pod2)})
    with node.running():
        pass
    node.configure(clusterCIDR=world.at.pods, nftables={"masqueradeAll": True, "masqueradeBit": 9})
    with traffic(world) as replies, node.running():
        assert seen(world.pod, world.at.cluster_ip)[1].isdisjoint({world.at.pod})
        assert "0x00000200" in world.node.ruleset()
    assert [reply for reply in replies if isinstance(reply, str)] == []


def test_foreign_tables_are_untouched_by_everything(world: World, node: EnforcerNode) -> None:
    world.node.run("nft", "-f", "-", stdin=FOREIGN)
    try:
        before = world.node.ruleset()
        node.write_plan({key(1): service(world, world.at.pod1)})
        with node.running():
            assert "table ip pointsman {" in world.node.ruleset()
        node.command("--cleanup")
        assert world.node.ruleset() == before
    finally:
        world.node.run("nft", "flush", "ruleset")


def test_cleanup_works_without_a_plan_and_twice(world: World, node: EnforcerNode) -> None:
    node.write_plan({key(1): service(world, world.at.pod1)})
    with node.running():
        pass
    node.command("--cleanup")
    assert world.node.ruleset() == ""
    assert not (node.directory / "plan.log").exists()
    node.command("--cleanup")
    assert probe(world.pod, world.at.cluster_ip, 80, silent=True) != Reply("pod1", world.at.pod, 0)


def test_dry_run_prints_the_difference_and_changes_nothing(world: World, node: EnforcerNode) -> None:
    node.write_plan({key(1): service(world, world.at.pod1, world.at.pod2)})
    with node.running():
        pass
    assert "# nothing to change" in node.command("--dry-run")
    before = world.node.ruleset()
    node.write_plan({key(1): service(world, world.at.pod1), key(2): ServicePlan()})
    printed = node.command("--dry-run")
    assert world.node.ruleset() == before
    vip, pod = world.at.cluster_ip, world.at.pod2
    assert f"delete element ip pointsman endpoints {{ {vip} . tcp . 80 . 1 }}" in printed
    assert f"add element ip pointsman service_ips {{ {vip} . tcp . 80 : goto cluster-1 }}" in printed
    assert "# nft --check: accepted" in printed
    assert pod not in printed
    commands = "\n".join(line for line in printed.splitlines() if not line.startswith("#"))
    listings = [world.node.run("nft", "list", "table", family, "pointsman") for family in ("ip", "ip6")]
    anew = "delete table ip pointsman\ndelete table ip6 pointsman\n" + "\n".join([*listings, commands, ""])
    world.node.run("nft", "-f", "-", stdin=anew)
    assert "# nothing to change" in node.command("--dry-run"), "what it printed is exactly what was missing"


def test_dry_run_on_a_clean_node_names_the_tables(world: World, node: EnforcerNode) -> None:
    node.write_plan({key(1): service(world, world.at.pod1)})
    printed = node.command("--dry-run")
    assert "# make anew table ip pointsman" in printed
    assert world.node.ruleset() == ""


def test_a_wrong_configuration_is_refused_with_every_problem(world: World, node: EnforcerNode) -> None:
    node.configure(mode="magic", clusterCIDR="10.0.0.0/33", nodePortAddresses=["primary"], colour="red")
    with pytest.raises(Exception, match=r"(?s)colour: unknown field.*mode: "):
        node.command("--init-only")
    node.configure(nodePortAddresses=["primary", "10.0.0.0/8"])
    with pytest.raises(Exception, match="primary must be the only entry"):
        node.command("--init-only")
    node.configure()
    node.command("--init-only")
    assert world.node.ruleset() == ""
