# SPDX-License-Identifier: Apache-2.0
"""The sysctls in a network namespace: its own are set, the host's are left alone, whatever cannot be is said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pointsman_model.plan import NodeFacts
from support.enforcer_process import EnforcerNode
from support.netns import NetNs

pytestmark = pytest.mark.root

PREFIX = "net.netfilter.nf_conntrack_"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[EnforcerNode]:
    with NetNs("sysctls") as namespace:
        made = EnforcerNode(namespace, tmp_path, NodeFacts(name="node-1"))
        namespace.sysctl(f"{PREFIX}tcp_timeout_established", 432000)
        yield made


def value(node: EnforcerNode, name: str) -> int:
    return int(node.namespace.run("sysctl", "-n", f"{PREFIX}{name}"))


def test_defaults_and_what_the_file_asks_for(node: EnforcerNode) -> None:
    maximum = value(node, "max")
    node.configure(conntrack={"maxPerCore": 0, "udpTimeout": "31s", "udpStreamTimeout": "2m1s", "tcpBeLiberal": True})
    node.command("--init-only")
    names = ("tcp_timeout_established", "tcp_timeout_close_wait", "tcp_be_liberal", "udp_timeout", "udp_timeout_stream")
    assert [value(node, name) for name in names] == [86400, 3600, 1, 31, 121]
    assert value(node, "max") == maximum


def test_a_maximum_that_is_the_hosts_is_said_and_nothing_else_is_lost(node: EnforcerNode) -> None:
    before = value(node, "max")
    node.configure(conntrack={"maxPerCore": 1, "min": before + 1}, logging={"format": "json"})
    node.write_plan({})
    with node.running():
        assert value(node, "tcp_timeout_established") == 86400
    assert value(node, "max") == before
    lines = [json.loads(line) for line in (node.directory / "log").read_text().splitlines()]
    [refusal] = [line for line in lines if "refused" in line]
    assert list(refusal["refused"]) == ["conntrack.maxPerCore"]
    assert "nf_conntrack_max: Permission denied" in refusal["refused"]["conntrack.maxPerCore"]
