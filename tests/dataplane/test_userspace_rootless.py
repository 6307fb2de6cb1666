# SPDX-License-Identifier: Apache-2.0
"""Userspace mode without rules: the proxy listens at the Services' addresses, or at others in their place."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from pointsman_enforcer.dataplane.base import KernelError, OccupiedError, UnsupportedPlanError
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_enforcer.dataplane.userspace.limits import ProxyLimits
from pointsman_enforcer.dataplane.userspace.rootless import RootlessDataplane
from pointsman_model.names import Protocol, parse_address, parse_prefix
from pointsman_model.plan import DROP, FrontendKind, ServicePlan
from support.enforcer_plans import cluster_ip, endpoints
from support.userspace_world import DEADLINE_SECONDS, NamingServer, ProxyWorld

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]
VIP, PORT, SERVER = "172.30.0.41", 8081, "127.0.1.1"
EMPTY = ServicePlan()
TESTS = Path(__file__).parents[1]


@pytest.fixture
def world() -> Iterator[ProxyWorld]:
    """A namespace in which the service CIDR is local, and a server."""
    with ProxyWorld() as made, NamingServer(made, SERVER):
        made.namespace.run("ip", "route", "add", "local", "172.30.0.0/16", "dev", "lo")
        yield made


def service(protocol: Protocol = Protocol.TCP) -> ServicePlan:
    return ServicePlan(ports=(cluster_ip(VIP, PORT, endpoints(SERVER), protocol),))


def opened(world: ProxyWorld, places: Mapping[bytes, bytes] | None = None) -> RootlessDataplane:
    limits = ProxyLimits(udp_idle_seconds=5.0)
    return world.namespace.call(lambda: RootlessDataplane(node_settings=NodeSettings(), places=places, limits=limits))


def turn(dataplane: RootlessDataplane, old: ServicePlan, new: ServicePlan) -> None:
    """From one plan to another, as the reconciler would."""
    change = dataplane.diff(dataplane.render(old, b""), dataplane.render(new, b""))
    asyncio.run(_apply(dataplane, change))


async def _apply(dataplane: RootlessDataplane, change: object) -> None:
    await dataplane.apply(change)  # type: ignore[arg-type]  # what its own diff made


def asked(world: ProxyWorld, address: str) -> str:
    """Who answers there."""
    with world.namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.settimeout(DEADLINE_SECONDS)
        client.connect((address, PORT))
        return client.makefile("rb", buffering=0).readline().decode().strip()


def test_a_service_is_served_at_its_address_and_no_longer_once_it_is_gone(world: ProxyWorld) -> None:
    dataplane = opened(world)
    try:
        turn(dataplane, EMPTY, service())
        assert asked(world, VIP) == SERVER
        turn(dataplane, service(), EMPTY)
        with pytest.raises(ConnectionRefusedError):
            asked(world, VIP)
        assert world.namespace.ruleset() == ""
    finally:
        dataplane.close()


def test_a_local_address_may_stand_in_for_that_of_the_service(world: ProxyWorld) -> None:
    dataplane = opened(world, {parse_address(VIP): parse_address("127.0.7.1")})
    try:
        turn(dataplane, EMPTY, service())
        assert asked(world, "127.0.7.1") == SERVER
        with pytest.raises(ConnectionRefusedError):
            asked(world, VIP)
    finally:
        dataplane.close()


def test_udp_is_answered_from_the_address_that_was_asked(world: ProxyWorld) -> None:
    dataplane = opened(world)
    try:
        with world.receive(SERVER) as server, world.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            turn(dataplane, EMPTY, service(Protocol.UDP))
            client.settimeout(DEADLINE_SECONDS)
            client.sendto(b"question", (VIP, PORT))
            data, back = server.recvfrom(100)
            server.sendto(data[::-1], back)
            assert client.recvfrom(100) == (b"noitseuq", (VIP, PORT))
    finally:
        dataplane.close()


def test_without_endpoints_the_client_is_refused(world: ProxyWorld) -> None:
    dataplane = opened(world)
    try:
        turn(dataplane, service(), ServicePlan(ports=(cluster_ip(VIP, PORT, ()),)))
        with pytest.raises(ConnectionRefusedError):
            asked(world, VIP)
    finally:
        dataplane.close()


def test_an_address_of_another_service_is_not_taken_over(world: ProxyWorld) -> None:
    dataplane = opened(world)
    try:
        turn(dataplane, EMPTY, service())
        (port,) = service().ports
        (frontend,) = port.frontends
        first = frontend._replace(address=parse_address("172.30.0.1"))
        other = ServicePlan(ports=(replace(port, frontends=(first, frontend)),))
        with pytest.raises(OccupiedError, match=VIP):
            turn(dataplane, EMPTY, other)
        with pytest.raises(ConnectionRefusedError):
            asked(world, "172.30.0.1")
        assert asked(world, VIP) == SERVER
    finally:
        dataplane.close()


def test_what_only_rules_can_do_is_refused_in_words(world: ProxyWorld) -> None:
    dataplane = opened(world)
    (port,) = service().ports
    (frontend,) = port.frontends
    balancer = frontend._replace(kind=FrontendKind.LOAD_BALANCER_IP)
    wanted = {
        "tell pods, this host and others apart": frontend._replace(from_outside=DROP),
        "only rules can drop": frontend._replace(from_pod=DROP, from_host=DROP, from_outside=DROP),
        "source ranges": balancer._replace(source_ranges=(parse_prefix("203.0.113.0/24"),)),
    }
    try:
        for words, asking in wanted.items():
            with pytest.raises(UnsupportedPlanError, match=words):
                dataplane.render(ServicePlan(ports=(replace(port, frontends=(asking,)),)), b"")
        with pytest.raises(UnsupportedPlanError, match="SCTP has no proxy"):
            dataplane.render(service(Protocol.SCTP), b"")
    finally:
        dataplane.close()


def unprivileged(*command: str) -> dict[str, object]:
    """What `support/rootless_main.py` prints, run by such a command."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    done = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr.decode()
    printed: dict[str, object] = json.loads(done.stdout)
    return printed


MAIN = (sys.executable, str(TESTS / "support" / "rootless_main.py"))
ANSWERED = {"capabilities": 0, "answered": ["tcp who?", "udp who?"]}
OWN_NAMESPACE = """
ip link set lo up
ip route add local 172.30.0.0/16 dev lo
echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start
exec setpriv --inh-caps=-all --bounding-set=-all "$@"
"""
"""What whoever may make namespaces of its own does there once, before it gives up every right."""


def test_without_any_capability_it_serves_at_given_local_addresses(world: ProxyWorld) -> None:
    inside = ("ip", "netns", "exec", world.namespace.name)
    assert unprivileged(*inside, "unshare", "--user", *MAIN, VIP, str(PORT), "127.0.7.1") == ANSWERED
    assert world.namespace.ruleset() == ""


def test_without_any_capability_it_serves_the_services_addresses_in_a_namespace_of_its_own() -> None:
    own = ("unshare", "--user", "--map-root-user", "--net", "sh", "-euc", OWN_NAMESPACE, "sh")
    assert unprivileged(*own, *MAIN, VIP, "80") == ANSWERED


def test_a_port_it_may_not_have_is_a_refusal_in_words(world: ProxyWorld) -> None:
    dataplane = opened(world, {parse_address(VIP): parse_address("203.0.113.7")})
    try:
        with pytest.raises(KernelError, match=r"cannot listen: .*203\.0\.113\.7:8081"):
            turn(dataplane, EMPTY, service())
        assert dataplane.proxy.served() == {}
    finally:
        dataplane.close()
