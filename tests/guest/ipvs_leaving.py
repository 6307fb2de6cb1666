# SPDX-License-Identifier: Apache-2.0
"""A node changes to ipvs mode and away from it while the other mode's rules are there: nobody's connection breaks."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from functools import partial

import pytest

from pointsman_enforcer.dataplane.iptables.backend import IptablesDataplane
from pointsman_enforcer.dataplane.ipvs.backend import IpvsDataplane
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_enforcer.dataplane.xtables.tools import Variant
from pointsman_model.names import Family, parse_address
from pointsman_model.plan import NodeFacts, ServicePlan
from support.ipvs_node import ENDPOINTS, NODE, VIP, IpvsNode, ask, plan_of, who

A, B, _ = ENDPOINTS[Family.IPV4]
STICKY_VIP = "172.30.0.42"
PLANS = {"web": plan_of(A, B), "sticky": plan_of(A, B, vip=STICKY_VIP, affinity_timeout_seconds=600)}
RESET = struct.pack("ii", 1, 0)
CLOSED_SECONDS = 30.0


@pytest.fixture(name="node")
def a_node() -> Iterator[IpvsNode]:
    with IpvsNode() as node:
        yield node


def iptables(node: IpvsNode) -> IptablesDataplane:
    """The same node's iptables mode."""
    opened = node.namespace.call(partial(IptablesDataplane, node_settings=NodeSettings(), variant=Variant.LEGACY))
    opened.configure(NodeFacts(name="node", addresses=(parse_address(NODE[Family.IPV4]),)))
    return opened


def beside_iptables(node: IpvsNode) -> IptablesDataplane:
    """The node had iptables mode, and begins with ipvs."""
    node.run(node.dataplane.cleanup())
    other = iptables(node)
    asyncio.run(_program(other, PLANS))
    node.restart()
    return other


async def _program(dataplane: IptablesDataplane, plans: Mapping[str, ServicePlan]) -> None:
    await dataplane.observe()
    await dataplane.prepare()
    change = dataplane.diff(b"", b"")
    for plan in plans.values():
        change.include(dataplane.diff(b"", dataplane.render(plan, b"")))
    await dataplane.apply(change)


def test_leaving_ends_no_connection_and_takes_no_new_one(node: IpvsNode) -> None:
    node.program(PLANS)
    other = iptables(node)
    with node.connect() as held, node.connect(STICKY_VIP) as sticky:
        before = ask(held), ask(sticky)
        asyncio.run(_program(other, PLANS))
        node.dataplane.close()
        node.dataplane = node.namespace.call(partial(IpvsDataplane, node_settings=NodeSettings()))
        assert node.run(node.dataplane.retire()) == 2
        assert (ask(held), ask(sticky)) == before
        connections = _ipvs_connections(node)
        assert {who(node) for _ in range(12)} == {A, B}
        assert _ipvs_connections(node) == connections
        for each in (held, sticky):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    deadline = time.monotonic() + CLOSED_SECONDS
    while node.run(node.dataplane.retire()):
        assert time.monotonic() < deadline, node.servers()
        time.sleep(0.2)
    node.run(node.dataplane.cleanup())
    assert node.servers() == []
    assert "pointsman-ipvs" not in node.namespace.run("ipset", "list", "-n")
    assert "POINTSMAN-IPVS" not in node.namespace.run("iptables-legacy-save")
    assert "28781" not in node.namespace.run("ip", "rule")
    assert {who(node) for _ in range(12)} == {A, B}
    other.close()


def test_entering_beside_another_modes_rules_breaks_nothing(node: IpvsNode) -> None:
    other = beside_iptables(node)
    with node.connect() as held:
        before = ask(held)
        node.program(PLANS)
        assert {who(node) for _ in range(12)} == {A, B}
        assert _ipvs_connections(node)
        asyncio.run(other.cleanup())
        assert ask(held) == before
        assert {who(node) for _ in range(12)} == {A, B}
        assert node.differing() == ""
    other.close()


def test_connections_that_ipvs_took_beside_another_modes_rules_outlive_those(node: IpvsNode) -> None:
    other = beside_iptables(node)
    node.program(PLANS)
    with node.connect() as held, node.connect(STICKY_VIP) as sticky:
        before = ask(held), ask(sticky)
        asyncio.run(other.cleanup())
        assert (ask(held), ask(sticky)) == before
    other.close()


def _ipvs_connections(node: IpvsNode) -> int:
    lines = node.namespace.run("ipvsadm", "-Lnc").splitlines()
    return sum(VIP[Family.IPV4] in line for line in lines)
