# SPDX-License-Identifier: Apache-2.0
"""An endpoint that goes keeps its TCP connections, and gets no new one; UDP flows find another endpoint at once."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator

import pytest

from pointsman_enforcer.dataplane.base import Found
from pointsman_model.names import Family, Protocol
from support.ipvs_node import ENDPOINTS, TARGET, VIP, IpvsNode, ask, plan_of, who

A, B, _ = ENDPOINTS[Family.IPV4]
FIRST = f"{A}:{TARGET}"
RESET = struct.pack("ii", 1, 0)
CLOSED_SECONDS = 30.0
"""IPVS remembers a connection that was reset for ten seconds."""


@pytest.fixture(name="world", scope="module")
def one_world() -> Iterator[IpvsNode]:
    with IpvsNode() as node:
        yield node


@pytest.fixture(name="node")
def a_node_without_services(world: IpvsNode) -> IpvsNode:
    world.program({})
    world.namespace.run("ipvsadm", "-C")
    return world


def test_an_endpoint_without_connections_goes_at_once(node: IpvsNode) -> None:
    node.program({"web": plan_of(A, B)})
    node.program({"web": plan_of(B)})
    assert node.reals() == {f"{B}:{TARGET}": 1}


def test_a_tcp_endpoint_with_a_connection_waits_with_weight_0_until_it_ends(node: IpvsNode) -> None:
    node.program({"web": plan_of(A)})
    with node.connect() as held:
        node.program({"web": plan_of(B)})
        assert node.reals() == {FIRST: 0, f"{B}:{TARGET}": 1}
        assert ask(held) == A
        assert {who(node) for _ in range(6)} == {B}
        node.mend()
        assert FIRST in node.reals()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    _until_gone(node, FIRST)
    assert node.differing() == ""


def test_a_removed_service_keeps_its_connections(node: IpvsNode) -> None:
    node.program({"web": plan_of(A)})
    with node.connect() as held:
        node.program({})
        assert ask(held) == A
        assert who(node) != A


def test_a_udp_endpoint_goes_at_once_and_its_flows_find_another(node: IpvsNode) -> None:
    node.program({"dns": plan_of(A, protocol=Protocol.UDP)})
    with node.connect(protocol=Protocol.UDP) as flow:
        assert ask(flow) == A
        node.program({"dns": plan_of(B, protocol=Protocol.UDP)})
        assert node.reals() == {f"{B}:{TARGET}": 1}
        node.namespace.run("conntrack", "-D", "-p", "udp", check=False)
        assert B in [ask(flow) for _ in range(3)]


def test_an_sctp_endpoint_goes_at_once(node: IpvsNode) -> None:
    node.program({"sig": plan_of(A, B, protocol=Protocol.SCTP)})
    assert node.reals() == {FIRST: 1, f"{B}:{TARGET}": 1}
    node.program({"sig": plan_of(B, protocol=Protocol.SCTP)})
    assert node.reals() == {f"{B}:{TARGET}": 1}


def test_an_endpoint_that_comes_back_while_it_drains_gets_connections_again(node: IpvsNode) -> None:
    node.program({"web": plan_of(A)})
    with node.connect():
        node.program({"web": plan_of(B)})
        node.program({"web": plan_of(A, B)})
        assert node.reals() == {FIRST: 1, f"{B}:{TARGET}": 1}


def test_a_restart_finds_what_drains_and_a_live_endpoint_is_no_longer_held_back(node: IpvsNode) -> None:
    node.program({"web": plan_of(A, B)})
    with node.connect(), node.connect():
        node.program({"web": plan_of(B)})
        assert node.reals() == {FIRST: 0, f"{B}:{TARGET}": 1}
        assert node.restart() is Found.OURS
        node.program({"web": plan_of(A, B)})
        node.remove_leftovers()
        assert node.reals() == {FIRST: 1, f"{B}:{TARGET}": 1}


def test_a_virtual_server_of_many_ports_goes_port_by_port(node: IpvsNode) -> None:
    node.program({"a": plan_of(A), "b": plan_of(B, port=443)})
    node.program({"a": plan_of(A)})
    assert who(node) == A
    assert who(node, VIP[Family.IPV4], 443) == "ConnectionRefusedError"


def _until_gone(node: IpvsNode, place: str) -> None:
    deadline = time.monotonic() + CLOSED_SECONDS
    while place in node.reals():
        assert time.monotonic() < deadline, node.servers()
        node.mend()
        time.sleep(0.2)
