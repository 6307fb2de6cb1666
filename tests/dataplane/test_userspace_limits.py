# SPDX-License-Identifier: Apache-2.0
"""Limits of the proxy of userspace mode: thousands of connections, descriptors, polite refusals; and its figures."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from structlog.testing import capture_logs

from pointsman_chassis.metrics import Registry
from pointsman_enforcer.dataplane.userspace import core
from pointsman_enforcer.dataplane.userspace.limits import ProxyLimits
from pointsman_enforcer.dataplane.userspace.metrics import measure
from pointsman_model.names import Protocol
from support.userspace_world import NamingServer, ProxyWorld, endpoint, eventually, heard

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
ONE = "127.0.1.1"
BANNER = ONE.encode() + b"\n"
CROWD = 3000
RAISE = """
import json, os, resource
from pointsman_enforcer.dataplane.userspace import limits
limits.LISTENERS_MAX = 1000
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
wide = limits.within_descriptors(limits.ProxyLimits(connections_max=1000, flows_max=500))
soft, same = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (512, 1024))
os.setgroups([]); os.setgid(65534); os.setuid(65534)
narrow = limits.within_descriptors(limits.ProxyLimits())
low = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
found = [soft, same == hard, wide.connections_max, wide.flows_max, low, narrow.connections_max, narrow.flows_max]
print(json.dumps(found))
"""
"""In a process of its own, as it lowers its own limits and gives up its rights."""


def test_thousands_of_connections_are_held_at_once_and_each_is_answered() -> None:
    with ProxyWorld() as world, NamingServer(world, ONE):
        world.serve(endpoint(ONE))

        connections = world.crowd(CROWD)
        try:
            eventually(lambda: world.proxy.counters.connections == CROWD)
            for number, each in enumerate(connections):
                each.send(b"%6d" % number)
            answers = [heard(each, len(BANNER) + 6) for each in connections]
            assert answers == [BANNER + b"%6d" % number for number in range(CROWD)]
        finally:
            for each in connections:
                each.close()
        eventually(lambda: world.proxy.counters.connections == 0)


def test_the_process_takes_as_many_descriptors_as_it_may_and_no_more_connections_than_these_allow() -> None:
    printed = subprocess.run([sys.executable, "-c", RAISE], capture_output=True, check=True, timeout=30).stdout
    soft, is_hard_kept, connections, flows, low, bounded_connections, bounded_flows = json.loads(printed)
    assert soft >= 2 * 1000 + 500 + 1000
    assert is_hard_kept
    assert (connections, flows) == (1000, 500)
    assert low == 1024
    assert 0 < 2 * bounded_connections + bounded_flows < 1024 - 256


def test_who_is_one_too_many_is_refused_at_once_counted_and_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "_CALM_SECONDS", 0.2)
    with capture_logs() as logs, ProxyWorld(ProxyLimits(connections_max=1)) as world, NamingServer(world, ONE):
        world.serve(endpoint(ONE))
        registry = Registry()
        measure(registry, world.proxy)
        with world.connect() as first:
            assert first.recv(100).strip().decode() == ONE
            for _ in range(3):
                with pytest.raises(ConnectionResetError), world.connect() as other:
                    other.recv(1)
            assert registry.value("pointsman_enforcer_proxy_refusing") == 1
            assert registry.value("pointsman_enforcer_proxy_ended_total", {"reason": "limit"}) == 3
            first.send(b"x")
            assert first.recv(1) == b"x"
        eventually(lambda: registry.value("pointsman_enforcer_proxy_refusing") == 0)
    refusals = [each for each in logs if "refuses clients" in each["event"]]
    assert [each["connections_max"] for each in refusals] == [1]
    assert [each["refused"] for each in logs if "nobody any more" in each["event"]] == [3]


def test_figures_are_few_and_right() -> None:
    with ProxyWorld(ProxyLimits(udp_idle_seconds=60.0)) as world, NamingServer(world, ONE), world.receive(ONE) as udp:
        registry = Registry(process=False)
        measure(registry, world.proxy)
        world.serve(endpoint(ONE))
        with world.connect() as client:
            banner = client.recv(100)
            client.send(b"12345")
            assert heard(client, 5) == b"12345"
            assert figure(registry, "flows", protocol="TCP") == 1
        world.serve(endpoint(ONE), protocol=Protocol.UDP)
        with world.datagrams() as client:
            client.send(b"123")
            assert udp.recv(10) == b"123"
            assert figure(registry, "flows", protocol="UDP") == 1
        eventually(lambda: figure(registry, "flows", protocol="TCP") == 0)
        assert figure(registry, "flows_begun_total", protocol="TCP") == 1
        assert figure(registry, "flows_begun_total", protocol="UDP") == 1
        # The endpoint may have a datagram before the proxy has counted it.
        eventually(lambda: figure(registry, "bytes_total", direction="to_endpoints") == 5 + 3)
        assert figure(registry, "bytes_total", direction="to_clients") == len(banner) + 5
        lines = registry.render()[1].decode().splitlines()
        assert len([line for line in lines if not line.startswith("#")]) < 20


def figure(registry: Registry, name: str, **labels: str) -> float | None:
    return registry.value(f"pointsman_enforcer_proxy_{name}", labels)
