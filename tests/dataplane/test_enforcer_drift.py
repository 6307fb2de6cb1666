# SPDX-License-Identifier: Apache-2.0
"""Somebody else changes or removes our tables in a real kernel: noticed, and put right without any event."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pointsman_enforcer.dataplane.drift import DriftOutcome
from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_model.names import ServiceKey, parse_address, parse_prefix
from pointsman_model.plan import NodeFacts, ServicePlan
from support.drift_world import DriftNode, drift_node
from support.enforcer_plans import cluster_ip, endpoints, key, load_balancer, numbered
from support.enforcer_process import EnforcerNode
from support.netns import NetNs
from support.nft_world import World
from support.traffic import PATIENCE_SECONDS, Reply, parse_reply, probe, seen

pytestmark = pytest.mark.root

DAMAGE = {
    "an element of a map": ("delete element ip pointsman endpoints {{ {vip} . tcp . 80 . 0 }}", "element"),
    "an element's value": (
        """delete element ip pointsman endpoints {{ {vip} . tcp . 80 . 0 }}
        add element ip pointsman endpoints {{ {vip} . tcp . 80 . 0 : 10.0.9.9 . 99 }}""",
        "element",
    ),
    "a verdict": ("delete element ip pointsman service_ips {{ {vip} . tcp . 80 }}", "element"),
    "an element more": ("add element ip pointsman cluster_ips {{ 10.99.99.99 }}", "element"),
    "a range": ("flush set ip pointsman service_cidrs", "element"),
    "source ranges": ("flush set ip pointsman allowed_sources", "element"),
    "all endpoints": ("flush map ip pointsman endpoints", "element"),
    "the stamp": ("flush set ip pointsman state", "element"),
    "a base chain's rules": ("flush chain ip pointsman nat-prerouting", "rule"),
    "a static chain's rules": ("flush chain ip pointsman services", "rule"),
    "an endpoint chain's rules": ("flush chain ip pointsman cluster-2", "rule"),
    "a rule more": ("insert rule ip pointsman services counter drop", "rule"),
    "a rule with an anonymous set": ("insert rule ip pointsman services ip daddr {{ {vip}, 10.1.1.1 }} drop", "rule"),
    "a base chain": ("delete chain ip pointsman nat-output", "chain"),
    "a policy": ("chain ip pointsman nat-prerouting {{ policy drop; }}", "chain"),
    "a chain and a set more": (
        """add set ip pointsman theirs {{ type ipv4_addr; }}
        add chain ip pointsman theirs
        add rule ip pointsman theirs ip daddr @theirs drop
        insert rule ip pointsman services jump theirs""",
        "chain",
    ),
    "a hooked chain more": (
        "add chain ip pointsman evil {{ type filter hook prerouting priority 0; policy drop; }}",
        "chain",
    ),
    "another hook priority": (
        """delete chain ip pointsman nat-output
        add chain ip pointsman nat-output {{ type nat hook output priority -50; }}""",
        "chain",
    ),
    "another kind of hook": (
        """delete chain ip pointsman nat-output
        add chain ip pointsman nat-output {{ type route hook output priority -100; }}""",
        "chain",
    ),
    "a base chain without its hook": (
        "delete chain ip pointsman nat-output\nadd chain ip pointsman nat-output",
        "chain",
    ),
    "all rules": ("flush table ip pointsman", "rule"),
    "a map of another kind": (
        """flush table ip pointsman
        delete map ip pointsman endpoints
        add map ip pointsman endpoints {{ type ipv4_addr : ipv4_addr; }}
        add element ip pointsman endpoints {{ 10.0.0.1 : 10.0.0.2 }}""",
        "set",
    ),
    "the table asleep": ("add table ip pointsman {{ flags dormant; }}", "table"),
    "one table": ("delete table ip pointsman", "table"),
    "the other table": ("delete table ip6 pointsman", "table"),
    "both tables": ("delete table ip pointsman\ndelete table ip6 pointsman", "table"),
    "the whole ruleset": ("flush ruleset", "table"),
    "an empty table of our name": ("delete table ip pointsman\nadd table ip pointsman", "table"),
    "a table of our name with other things in it": (
        """delete table ip pointsman
        add table ip pointsman
        add set ip pointsman endpoints {{ type inet_service; elements = {{ 80 }}; }}
        add chain ip pointsman services {{ type filter hook forward priority 0; policy drop; }}""",
        "table",
    ),
}


LOST = (
    "all endpoints",
    "a static chain's rules",
    "a policy",
    "another hook priority",
    "a chain and a set more",
    "a map of another kind",
    "a table of our name with other things in it",
    "both tables",
)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World(Family.IPV4) as made:
        yield made


def plans(world: World) -> dict[ServiceKey, ServicePlan]:
    chosen = endpoints(world.at.pod1, world.at.pod2)
    return {key(1): ServicePlan(ports=(cluster_ip(world.at.cluster_ip, 80, chosen),)), key(2): load_balancer()}


def flooding(commands: str) -> str:
    """These, in a commit that announces more than the socket holds before it comes to them."""
    numbers = ", ".join(str(each) for each in range(60_000))
    foreign = "add table inet others\nadd set inet others s { type mark; }"
    return f"{foreign}\nadd element inet others s {{ {numbers} }}\n{commands}"


def many_probes(world: World) -> list[Reply | str]:
    return [probe(world.pod, world.at.cluster_ip, 80) for _ in range(20)]


async def both_listings(node: DriftNode) -> tuple[str, str]:
    return await asyncio.to_thread(node.listing, "ip"), await asyncio.to_thread(node.listing, "ip6")


@pytest.mark.parametrize("what", DAMAGE)
async def test_damage_is_put_right_without_any_event(world: World, what: str) -> None:
    commands, kind = DAMAGE[what]
    async with drift_node(world.node) as node:
        node.plan(plans(world))
        await node.programmed()
        before = await both_listings(node)
        await node.nft(commands.format(vip=world.at.cluster_ip))
        look = await node.looked(1)
        await node.until(lambda: not node.reconciler.drift.is_due, "a look is owed")
        assert kind in look.kinds
        while await both_listings(node) != before:
            await node.looked(len(node.looks) + 1)
        assert node.looks[-1].outcome is not DriftOutcome.UNCHANGED
        assert max(look.seconds for look in node.looks) < 2
        report = node.reports[-1].drift
        assert report is not None
        assert (report.process, node.reports[-1].nonce) == ("nft", 0)
        assert report.objects > 0
        names, _ = await asyncio.to_thread(seen, world.pod, world.at.cluster_ip)
        assert names == {"pod1", "pod2"}


async def test_traffic_fails_only_while_the_table_is_broken_and_flows_go_on(world: World) -> None:
    async with drift_node(world.node) as node:
        node.plan(plans(world))
        await node.programmed()
        with world.pod.socket(socket.AF_INET, socket.SOCK_STREAM) as flow:
            flow.settimeout(PATIENCE_SECONDS)
            await asyncio.to_thread(flow.connect, (world.at.cluster_ip, 80))
            for damage in ("delete table ip pointsman", "flush chain ip pointsman services", "flush ruleset"):
                looks = len(node.looks)
                await node.nft(damage)
                await node.looked(looks + 1)
                replies = await asyncio.to_thread(many_probes, world)
                assert all(isinstance(reply, Reply) for reply in replies), (damage, replies)
            await asyncio.to_thread(flow.sendall, b"who?")
            assert parse_reply(await asyncio.to_thread(flow.recv, 128)).name in {"pod1", "pod2"}


@pytest.mark.parametrize(
    ("damage", "gets", "messages"),
    [
        ("delete element ip pointsman endpoints {{ {vip} . tcp . 80 . 1 }}", 1, 1),
        ("delete element ip pointsman service_ips {{ {vip} . tcp . 80 }}", 1, 1),
        ("delete element ip pointsman cluster_ips {{ {vip} }}", 1, 1),
        ("add element ip pointsman hairpin {{ 10.9.9.9 . 10.9.9.9 }}", 1, 1),
        (
            """delete element ip pointsman endpoints {{ {vip} . tcp . 80 . 0, 172.30.0.100 . tcp . 80 . 3 }}
            add element ip pointsman endpoints {{ {vip} . tcp . 80 . 0 : 10.0.9.9 . 99 }}""",
            2,
            2,
        ),
        (
            """delete element ip pointsman endpoints {{ {vip} . tcp . 80 . 1 }}
            delete element ip pointsman service_ips {{ {vip} . tcp . 80 }}""",
            2,
            2,
        ),
    ],
)
async def test_elements_that_are_named_are_mended_without_reading_a_set(
    world: World, damage: str, gets: int, messages: int
) -> None:
    """A question to the kernel for each, one message for each set and direction, a look whether tables are there."""
    async with drift_node(world.node) as node:
        node.plan({**plans(world), **{key(each): numbered(each) for each in range(100, 300)}})
        await node.programmed()
        before = await both_listings(node)
        dumps_before, gets_before, sent_before = node.dataplane.dumps, node.dataplane.gets, node.dataplane.counters[0]
        await node.nft(damage.format(vip=world.at.cluster_ip))
        look = await node.looked(1)
        assert (look.kinds, look.outcome) == (("element",), DriftOutcome.REPAIRED)
        assert node.dataplane.gets - gets_before == gets
        assert node.dataplane.counters[0] - sent_before == messages
        tables = 2
        assert node.dataplane.dumps - dumps_before == tables
        assert await both_listings(node) == before


async def test_many_elements_are_mended_by_reading_their_set_once(world: World) -> None:
    async with drift_node(world.node) as node:
        node.plan({**plans(world), **{key(each): numbered(each) for each in range(100, 300)}})
        await node.programmed()
        dumps, messages = node.dataplane.dumps, node.dataplane.counters[0]
        gone = ", ".join(f"172.30.0.{each} . tcp . 80 . 0" for each in range(100, 150))
        await node.nft(f"delete element ip pointsman endpoints {{ {gone} }}")
        look = await node.looked(1)
        assert (look.kinds, look.outcome) == (("element",), DriftOutcome.REPAIRED)
        assert node.dataplane.gets == 0
        assert node.dataplane.counters[0] - messages == 1
        tables, sets = 2, 1
        assert node.dataplane.dumps - dumps == tables + sets


async def test_foreign_tables_change_all_the_time_and_ours_are_not_read(world: World) -> None:
    async with drift_node(world.node) as node:
        node.plan(plans(world))
        await node.programmed()
        dumps = node.dataplane.dumps
        for each in range(100):
            made = f"add table inet others\nadd set inet others s{each} {{ type ipv4_addr; }}"
            await node.nft(f"{made}\ndelete table inet others")
        await node.nft("add table ip pointsman2\ndelete table ip pointsman2")
        assert node.dataplane.dumps == dumps
        assert node.looks == []


async def test_lost_notifications_are_looked_at_and_nothing_is_missed(world: World) -> None:
    async with drift_node(world.node) as node:
        node.plan(plans(world))
        await node.programmed()
        before = await both_listings(node)
        damage = f"delete element ip pointsman service_ips {{ {world.at.cluster_ip} . tcp . 80 }}"
        # Not awaited: while the loop stands still nobody reads the notifications.
        world.node.run("nft", "-f", "-", stdin=flooding(damage))
        await node.looked(1)
        while await both_listings(node) != before:
            await node.looked(len(node.looks) + 1)
        assert any("lost" in look.kinds for look in node.looks), "the flood was too small for this test"
        assert "inet others" in await asyncio.to_thread(world.node.ruleset)
        await node.nft("delete table inet others")


@pytest.mark.parametrize("what", LOST)
async def test_whatever_was_lost_is_found_and_put_right(world: World, what: str) -> None:
    """The same damage, announced in the middle of more than the socket holds."""
    async with drift_node(world.node) as node:
        node.plan(plans(world))
        await node.programmed()
        before = await both_listings(node)
        world.node.run("nft", "-f", "-", stdin=flooding(DAMAGE[what][0].format(vip=world.at.cluster_ip)))
        await node.looked(1)
        while await both_listings(node) != before:
            await node.looked(len(node.looks) + 1)
        assert any("lost" in look.kinds for look in node.looks), "the flood was too small for this test"
        await node.nft("delete table inet others")


async def test_who_keeps_deleting_our_table_is_answered_ever_more_seldom(world: World) -> None:
    async with drift_node(world.node) as node:
        node.plan(plans(world))
        await node.programmed()
        commits = node.dataplane.counters[0]
        started = time.monotonic()
        while time.monotonic() - started < 6.0:
            await node.nft("add table ip pointsman\ndelete table ip pointsman")
        assert len(node.looks) <= 8, "five within the first second or two, then after 1, 2 and 4 seconds"
        assert node.dataplane.counters[0] > commits
        assert node.reconciler.drift.is_slowed


async def test_foreign_tables_are_untouched_by_repairs(world: World) -> None:
    foreign = "table inet others {\n\tset a {\n\t\ttype ipv4_addr\n\t\telements = { 10.9.9.9 }\n\t}\n}\n"
    async with drift_node(world.node) as node:
        node.plan(plans(world))
        await node.programmed()
        await node.nft(foreign)
        for count, damage in enumerate(("flush chain ip pointsman services", "delete table ip pointsman"), start=1):
            await node.nft(damage)
            await node.looked(count)
        assert await asyncio.to_thread(world.node.run, "nft", "list", "table", "inet", "others") == foreign
        await node.nft("delete table inet others")


async def test_own_commits_are_never_taken_for_drift(world: World) -> None:
    async with drift_node(world.node) as node:
        node.plan({key(each): numbered(each) for each in range(500)})
        await node.programmed()
        for each in range(20):
            node.plan({key(index): numbered(index, first=each + 2) for index in range(500)})
            await node.programmed()
        await node.nft("add table ip zz\ndelete table ip zz")
        assert node.looks == []
        assert node.reconciler.drift.report is None


async def test_clients_that_packets_make_the_kernel_remember_are_no_drift(world: World) -> None:
    async with drift_node(world.node) as node:
        chosen = endpoints(world.at.pod1, world.at.pod2)
        ports = (cluster_ip(world.at.cluster_ip, 80, chosen),)
        node.plan({key(1): ServicePlan(ports=ports, affinity_timeout_seconds=100)})
        await node.programmed()
        names, _ = await asyncio.to_thread(seen, world.pod, world.at.cluster_ip)
        assert len(names) == 1
        assert "expires" in await asyncio.to_thread(world.node.ruleset)
        assert node.looks == []
        await node.nft("flush map ip pointsman affinity_endpoints\nflush map ip pointsman affinity_picks")
        look = await node.looked(1)
        assert look.outcome is DriftOutcome.REPAIRED
        assert (await asyncio.to_thread(seen, world.pod, world.at.cluster_ip))[0] == names


def test_the_command_repairs_under_traffic_counts_and_says_who_it_was(world: World, tmp_path: Path) -> None:
    facts = NodeFacts(
        name="node-1",
        addresses=(parse_address(world.at.node),),
        service_cidrs=(parse_prefix(world.at.service_cidr),),
    )
    node = EnforcerNode(world.node, tmp_path, facts, clusterCIDR=world.at.pods)
    node.write_plan(plans(world))
    with node.running():
        assert node.status()["drift"] is None
        for repairs, damage in enumerate(("flush ruleset", "flush chain ip pointsman services"), start=1):
            world.node.run("nft", damage)
            deadline = time.monotonic() + PATIENCE_SECONDS
            while (node.status()["drift"] or {"repairs": 0})["repairs"] < repairs:
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            assert seen(world.pod, world.at.cluster_ip)[0] == {"pod1", "pod2"}
        drift = node.status()["drift"]
        assert (drift["process"], drift["kinds"]) == ("nft", ["rule"])
        metrics = node.get("http://127.0.0.1:10249/metrics")
        assert 'pointsman_enforcer_drift_repairs_total{outcome="rebuilt"} 1.0' in metrics
        assert 'pointsman_enforcer_drift_repairs_total{outcome="repaired"} 1.0' in metrics
        assert 'pointsman_enforcer_drift_events_total{kind="table"} 1.0' in metrics
        log = (tmp_path / "log").read_text()
        assert log.count("somebody else changed our kernel objects; put right") == 2
    node.command("--cleanup")


@pytest.mark.timeout(180)
async def test_a_full_flush_of_ten_thousand_services_costs_no_more_than_loading_them() -> None:
    with NetNs("flush") as namespace:
        async with drift_node(namespace) as node:
            node.plan({key(each): numbered(each) for each in range(10_000)})
            started = time.perf_counter()
            await node.programmed()
            loading = time.perf_counter() - started
            await node.nft("flush ruleset")
            look = await node.looked(1)
            assert look.outcome is DriftOutcome.REBUILT
            assert look.seconds < max(loading, 0.5)
            listing = await asyncio.to_thread(namespace.ruleset)
            assert listing.count(" : goto cluster-10") == 10_000
            assert listing.count(" . tcp . 80 . ") == 100_000
            dumps = node.dataplane.dumps
            await node.nft("delete element ip pointsman endpoints { 172.30.0.1 . tcp . 80 . 3 }")
            look = await node.looked(2)
            assert (look.outcome, node.dataplane.dumps - dumps, node.dataplane.gets) == (DriftOutcome.REPAIRED, 2, 1)
            assert node.reconciler.drift.report is not None
            assert node.reconciler.drift.report.objects == 1
