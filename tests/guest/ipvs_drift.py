# SPDX-License-Identifier: Apache-2.0
"""Whatever of ours somebody else changes is noticed and put back; what is theirs is left alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pointsman_model.names import Family
from support.ipvs_node import ENDPOINTS, PORT, TARGET, VIP, IpvsNode, ask, plan_of, who

A, B, _ = ENDPOINTS[Family.IPV4]
A6, B6, _ = ENDPOINTS[Family.IPV6]
PLACE = f"{VIP[Family.IPV4]},tcp:{PORT}"


@pytest.fixture(name="node", scope="module")
def one_node() -> Iterator[IpvsNode]:
    with IpvsNode() as node:
        node.program({"web": plan_of(A, B), "six": plan_of(A6, B6, vip=VIP[Family.IPV6])})
        yield node


def mark(node: IpvsNode) -> str:
    """The mark that leads to the IPv4 Service."""
    (printed,) = {line.split()[2] for line in node.servers() if line.startswith("-A -f") and "-6" not in line}
    return str(int(printed) & 0xFFFFFFFF)  # it prints what it does not take


DAMAGES = {
    "a real server is removed": "ipvsadm -d -f {mark} -r 10.180.0.1:8080",
    "a real server is added": "ipvsadm -a -f {mark} -r 10.180.0.9:8080 -m",
    "a weight is another": "ipvsadm -e -f {mark} -r 10.180.0.1:8080 -m -w 7",
    "a scheduler is another": "ipvsadm -E -f {mark} -s wrr",
    "a virtual server is removed": "ipvsadm -D -f {mark}",
    "all virtual servers are removed": "ipvsadm -C",
    "a set is emptied": "ipset flush pointsman-ipvs-others4",
    "an element is removed": "ipset del pointsman-ipvs-others4 {place}",
    "an element is added": "ipset add pointsman-ipvs-vips4 192.0.2.77",
    "a chain is emptied": "iptables-legacy -t mangle -F POINTSMAN-IPVS-NEW",
    "a jump is removed": "iptables-legacy -t mangle -D PREROUTING -j POINTSMAN-IPVS-SERVICES",
    "a rule is removed for IPv6": "ip6tables-legacy -t filter -D POINTSMAN-IPVS-FILTER 1",
    "the route is removed": "ip route flush table 28781",
    "the rule that leads to the route is removed": "ip -6 rule del priority 28781",
    "connections are no longer tracked": "sysctl -qw net.ipv4.vs.conntrack=0",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_single_look_finds_it_and_it_is_put_back(node: IpvsNode, damage: str) -> None:
    node.mend()
    assert not node.mend().objects
    servers, sets, rules = node.servers(), saved(node), node.namespace.run("iptables-legacy-save", "-t", "mangle")
    node.namespace.run(*damage.format(mark=mark(node), place=PLACE).split())
    mended = node.mend()
    assert mended.objects
    assert mended.kinds
    assert sorted(node.servers()) == sorted(servers)
    assert saved(node) == sets
    assert without_counters(node.namespace.run("iptables-legacy-save", "-t", "mangle")) == without_counters(rules)
    assert {who(node) for _ in range(8)} == {A, B}
    assert {who(node, VIP[Family.IPV6]) for _ in range(8)} == {A6, B6}
    assert not node.mend().objects


def test_an_element_that_leads_elsewhere_is_found_by_the_slow_look(node: IpvsNode) -> None:
    sets = saved(node)
    node.namespace.run("ipset", "add", "-exist", "pointsman-ipvs-others4", PLACE, "skbmark", "0x80000001")
    node.dataplane.look_at_everything()
    assert node.mend().kinds == ("element",)
    assert saved(node) == sets


def test_reading_back_names_what_differs_and_has_it_mended(node: IpvsNode) -> None:
    assert node.differing() == ""
    node.namespace.run("ipvsadm", "-e", "-f", mark(node), "-r", f"{A}:{TARGET}", "-m", "-w", "7")
    node.namespace.run("ipset", "del", "pointsman-ipvs-others4", PLACE)
    words = node.differing()
    assert "of weight 7, not 1" in words
    assert f"{PLACE} is missing in pointsman-ipvs-others4" in words
    assert node.mend().objects == 2
    assert node.differing() == ""


def test_held_connections_go_on_after_all_virtual_servers_were_removed(node: IpvsNode) -> None:
    with node.connect() as held:
        before = ask(held)
        node.namespace.run("ipvsadm", "-C")
        assert node.mend().objects
        assert ask(held) == before


def test_virtual_servers_of_others_come_and_go_without_a_repair(node: IpvsNode) -> None:
    for command in ("ipvsadm -A -t 192.0.2.9:80 -s rr", "ipvsadm -a -t 192.0.2.9:80 -r 192.0.2.10:80 -m"):
        node.namespace.run(*command.split())
        assert not node.mend().objects
    assert "-a -t 192.0.2.9:80 -r 192.0.2.10:80 -m -w 1" in node.servers()
    node.namespace.run("ipvsadm", "-D", "-t", "192.0.2.9:80")
    assert not node.mend().objects


def saved(node: IpvsNode) -> list[str]:
    """Elements of all sets."""
    return sorted(line.strip() for line in node.namespace.run("ipset", "save").splitlines() if line.startswith("add"))


def without_counters(text: str) -> list[str]:
    """Rules as they were written."""
    return [line for line in text.splitlines() if line.startswith("-A")]
