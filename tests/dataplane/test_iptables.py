# SPDX-License-Identifier: Apache-2.0
"""The iptables dataplane in a kernel, with both variants of the tool: restarts, drift, counters, leaving nothing."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from functools import partial

import pytest
from conformance.executors.enforcer import Enforcer
from conformance.executors.kernel import KernelExecutor, groups
from conformance.executors.modes import IPTABLES_LEGACY, IPTABLES_NFT, KernelMode
from conformance.table import all_rows, runnable

from pointsman_enforcer.dataplane.iptables.backend import IptablesDataplane
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_enforcer.dataplane.xtables.tools import Variant, detect
from pointsman_model.plan import NodePlan
from support.enforcer_plans import FACTS, key, load_balancer, numbered
from support.netns import NetNs

pytestmark = pytest.mark.root
VARIANTS = {Variant.LEGACY: IPTABLES_LEGACY, Variant.NFT: IPTABLES_NFT}
SOME = {"2d", "8d", "10", "12", "30", "47", "51", "155", "159", "162", "176", "180"}
"""Rows of several kinds: the whole table is `make conformance`."""
SERVICES = {key(0): load_balancer(), **{key(each): numbered(each) for each in range(1, 6)}}


@pytest.fixture
def node() -> Iterator[NetNs]:
    with NetNs("iptables") as made:
        yield made


@pytest.fixture(params=list(Variant), ids=[variant.value for variant in Variant])
def variant(request: pytest.FixtureRequest) -> Variant:
    found: Variant = request.param
    return found


def started(node: NetNs, variant: Variant) -> tuple[IptablesDataplane, Enforcer]:
    dataplane = node.call(partial(IptablesDataplane, node_settings=NodeSettings(), variant=variant))
    return dataplane, Enforcer(dataplane)


def saved(node: NetNs, variant: Variant) -> str:
    """Rules of both families without counters of built-in chains and comments."""
    text = "".join(node.run(f"{tool}-{variant.value}-save") for tool in ("iptables", "ip6tables"))
    return "\n".join(re.sub(r" \[\d+:\d+\]$", "", line) for line in text.splitlines() if not line.startswith("#"))


def test_rows_of_every_kind(variant: Variant) -> None:
    mode: KernelMode = VARIANTS[variant]
    rows = [row for row in runnable(all_rows(), mode.rows) if row.number in SOME and row.check is None]
    assert {row.number for row in rows} == SOME
    with KernelExecutor(mode) as executor:
        results = [result for group in groups(rows) for result in executor.run_group(group)]
    assert [(result.row.id, result.failures) for result in results if result.failures] == []


def test_a_restarted_enforcer_writes_nothing_that_is_there(node: NetNs, variant: Variant) -> None:
    _, first = started(node, variant)
    first.program(NodePlan(facts=FACTS, services=SERVICES))
    first.close()
    before = saved(node, variant)
    dataplane, second = started(node, variant)
    written = dataplane.counters[1]
    second.program(NodePlan(facts=FACTS, services=SERVICES))
    again = dataplane.counters[1] - written
    second.close()
    assert saved(node, variant) == before
    sets_only = 12 * 80
    assert again < sets_only * 2, "commands that make the sets, and nothing else"


def test_what_was_left_and_is_planned_no_more_goes(node: NetNs, variant: Variant) -> None:
    _, first = started(node, variant)
    first.program(NodePlan(facts=FACTS, services=SERVICES))
    first.close()
    _, second = started(node, variant)
    second.program(NodePlan(facts=FACTS, services={key(1): numbered(1)}))
    second.close()
    left = saved(node, variant)
    assert len(re.findall(r"^:POINTSMAN-E-", left, re.MULTILINE)) == 1
    assert "3001" not in left
    assert "1.2.3.4" not in node.run("ipset", "save")


def test_our_own_writing_is_not_taken_for_somebody_elses(node: NetNs, variant: Variant) -> None:
    dataplane, enforcer = started(node, variant)
    enforcer.program(NodePlan(facts=FACTS, services={key(each): numbered(each) for each in range(100)}))
    assert dataplane._monitor.take() is False
    node.run(f"iptables-{variant.value}", "-t", "nat", "-F", "POINTSMAN-SERVICES")
    assert dataplane._monitor.take() is True
    enforcer.close()


@pytest.mark.parametrize(
    "damage",
    [
        ("-t", "nat", "-F"),
        ("-t", "nat", "-D", "PREROUTING", "-j", "POINTSMAN-SERVICES"),
        ("-t", "filter", "-F", "POINTSMAN-FORWARD"),
        ("-t", "nat", "-A", "POINTSMAN-VIPS", "-j", "RETURN"),
    ],
    ids=["table", "jump", "chain", "rule"],
)
def test_what_somebody_else_changes_is_put_right(node: NetNs, variant: Variant, damage: tuple[str, ...]) -> None:
    _, enforcer = started(node, variant)
    enforcer.program(NodePlan(facts=FACTS, services=SERVICES))
    before = saved(node, variant)
    enforcer.heal(lambda: node.run(f"iptables-{variant.value}", *damage))
    enforcer.close()
    assert saved(node, variant) == before


def test_counters_outlive_a_change_of_other_services(node: NetNs, variant: Variant) -> None:
    _, enforcer = started(node, variant)
    enforcer.program(NodePlan(facts=FACTS, services={key(0): load_balancer()}))
    count = partial(node.run, f"iptables-{variant.value}", "-t", "nat", "-L", "POINTSMAN-SERVICES", "-v", "-x", "-n")
    with node.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"a new connection", ("127.0.0.1", 9))
    lines = count().splitlines()[2:]
    assert any(int(line.split()[0]) for line in lines)
    before = [int(line.split()[0]) for line in lines]
    enforcer.program(NodePlan(facts=FACTS, services=SERVICES))
    enforcer.close()
    after = [int(line.split()[0]) for line in count().splitlines()[2:]]
    assert all(now >= then for now, then in zip(after, before, strict=True))


def test_cleaning_up_leaves_what_is_not_ours_and_nothing_that_is(node: NetNs, variant: Variant) -> None:
    tool = f"iptables-{variant.value}"
    for command in (("-N", "FOREIGN"), ("-A", "FOREIGN", "-j", "DROP"), ("-A", "INPUT", "-j", "FOREIGN")):
        node.run(tool, *command)
    node.run("ipset", "create", "foreign", "hash:ip")
    _, enforcer = started(node, variant)
    enforcer.program(NodePlan(facts=FACTS, services=SERVICES))
    assert "POINTSMAN" in saved(node, variant)
    enforcer.cleanup()
    left = saved(node, variant)
    assert "POINTSMAN" not in left
    assert "-A FOREIGN -j DROP" in left
    assert "-A INPUT -j FOREIGN" in left
    assert node.run("ipset", "list", "-n").split() == ["foreign"]


def test_the_variant_is_the_one_that_has_rules(node: NetNs, variant: Variant) -> None:
    node.run(f"iptables-{variant.value}", "-A", "INPUT", "-j", "ACCEPT")
    assert node.call(detect) is variant


def test_the_variant_is_the_one_that_a_kubelet_chose(node: NetNs, variant: Variant) -> None:
    other = next(each for each in Variant if each is not variant)
    node.run(f"iptables-{other.value}", "-A", "INPUT", "-j", "ACCEPT")
    node.run(f"iptables-{variant.value}", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT")
    assert node.call(detect) is variant
