# SPDX-License-Identifier: Apache-2.0
"""A node is taken over from kube-proxy under traffic, and given back; `make takeover` tries every pair of modes."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pointsman_chassis.clock import SystemClock
from pointsman_chassis.metrics import Registry
from pointsman_enforcer.dataplane.kube_proxy import running
from pointsman_enforcer.dataplane.kube_proxy.pace import TakeoverBook, TakeoverPace, TakeoverState
from pointsman_enforcer.dataplane.kube_proxy.takeover import (
    KubeProxyTakeover,
    TakeoverMetrics,
    kube_proxy_leftovers,
)
from support.kube_proxy_rules.report import problems
from support.kube_proxy_rules.takeover import Node, find, remove, take_over
from support.kube_proxy_rules.traffic import KubeTraffic
from support.kube_proxy_rules.world import KubeProxyWorld
from support.netns import NetNs

pytestmark = pytest.mark.root


@pytest.fixture
def world() -> Iterator[KubeProxyWorld]:
    with KubeProxyWorld() as made:
        yield made


@pytest.mark.parametrize(("theirs", "ours"), [("iptables-legacy", "nftables"), ("nftables", "iptables-nft")])
def test_a_node_is_taken_over_without_a_failed_connection(theirs: str, ours: str) -> None:
    seen = take_over(theirs, ours)
    assert problems(seen) == []
    assert seen.opened > 1000
    assert seen.removed > 0


def test_a_node_goes_back_to_kube_proxy_and_our_cleanup_leaves_its_rules_alone(world: KubeProxyWorld) -> None:
    world.install("iptables-nft")
    theirs = world.rules()
    with Node(world) as node:
        with node.running("nftables"):
            node.wait_removed()
        with KubeTraffic(world) as traffic:
            world.install("iptables-nft")
            traffic.settle()
            assert "kube-proxy" not in node.command("--cleanup")
            assert "pointsman" not in world.node.run("nft", "list", "ruleset")
            traffic.settle()
    assert world.rules() == theirs
    assert (traffic.failed, traffic.reset) == ([], [])


def test_rules_that_come_back_are_taken_for_a_kube_proxy_that_runs(world: KubeProxyWorld) -> None:
    async def scenario() -> list[TakeoverState]:
        takeover = KubeProxyTakeover(
            kube_proxy_leftovers(),
            clock=SystemClock(),
            metrics=TakeoverMetrics(Registry(process=False)),
            book=TakeoverBook(TakeoverPace(quiet_looks=2)),
        )
        states = []
        for install in (False, True, False, False, False):
            if install:
                world.install("iptables-nft")
            await takeover.step()
            states.append(takeover.state)
        return states

    world.install("iptables-nft")
    before = world.others()
    assert world.node.call(lambda: asyncio.run(scenario())) == [
        TakeoverState.REMOVED,
        TakeoverState.RUNNING,
        TakeoverState.RUNNING,
        TakeoverState.RUNNING,
        TakeoverState.CLEAN,
    ]
    assert "KUBE-SERVICES" in before
    assert world.node.call(lambda: asyncio.run(find())) == []


def test_a_process_of_kube_proxy_is_seen_in_its_own_network_namespace_and_no_other(
    world: KubeProxyWorld, tmp_path: Path
) -> None:
    program = tmp_path / running.PROGRAM
    shutil.copy(shutil.which("sleep") or "", program)
    process = world.node.popen(str(program), "60", stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while (Path("/proc") / str(process.pid) / "comm").read_text().strip() != running.PROGRAM:
            assert time.monotonic() < deadline
        assert world.node.call(running.process) == process.pid
        assert world.client.call(running.process) == 0
    finally:
        process.kill()
        process.wait()
    assert world.node.call(running.process) == 0


def test_somebody_else_at_the_port_of_the_health_page_is_noticed_and_we_are_not() -> None:
    with NetNs("port") as node:
        assert not node.call(running.is_port_taken)
        with node.socket(2, 1) as mine:
            mine.bind(("127.0.0.1", running.HEALTHZ_PORT))
            mine.listen()
            assert not node.call(running.is_port_taken)
        serve = "import socket,time; s=socket.create_server(('', 10256)); print(1, flush=True); time.sleep(60)"
        other = node.popen("python3", "-c", serve, stdout=subprocess.PIPE)
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == b"1\n"
            assert node.call(running.is_port_taken)
        finally:
            other.kill()
            other.wait()


def test_what_a_cni_leads_to_stays_with_what_it_needs(world: KubeProxyWorld) -> None:
    world.install("iptables-nft")
    run = world.node.run
    run("iptables-nft", "-t", "nat", "-A", "CNI-HOSTPORT-SETMARK", "-j", "KUBE-MARK-MASQ")
    world.node.call(lambda: asyncio.run(remove()))
    left = [line for line in world.rules() if "KUBE-MARK-MASQ" in line or "KUBE-POSTROUTING" in line]
    assert all(line.startswith("iptables-nft *nat") for line in left)
    assert len(left) == 8
    assert world.node.call(lambda: asyncio.run(find())) == []
    assert not any("KUBE-SERVICES" in line for line in world.rules() if "administrator" not in line)


def test_the_command_removes_it_and_says_what_it_was(world: KubeProxyWorld) -> None:
    before = world.others()
    for mode in ("nftables", "iptables-legacy"):
        world.install(mode)
    with Node(world) as node:
        said = node.command("--cleanup-kube-proxy")
        assert node.command("--cleanup-kube-proxy") == ""
    assert "removed kube-proxy's nftables tables: table ip kube-proxy, table ip6 kube-proxy\n" in said
    assert "removed kube-proxy's iptables rules (legacy): IPv4: 23 chains" in said
    assert "kube-proxy" not in world.node.run("nft", "list", "tables")
    assert world.others() == before


def test_a_host_without_anything_of_kube_proxy_is_left_as_it_is() -> None:
    with NetNs("empty") as node:
        assert node.call(lambda: asyncio.run(find())) == []
        assert node.call(lambda: asyncio.run(remove())) == (0, 0)
        assert node.run("nft", "list", "ruleset") == ""
        assert node.run("cat", "/proc/net/ip_tables_names") == ""
