# SPDX-License-Identifier: Apache-2.0
"""Which rules of an iptables-save are kube-proxy's, and what removes them."""

from __future__ import annotations

import re

import pytest

from pointsman_enforcer.dataplane.kube_proxy.names import SETS, is_chain
from pointsman_enforcer.dataplane.kube_proxy.rules import Rules, read_rules, removal_text
from pointsman_enforcer.dataplane.nftables.message import Family
from support.kube_proxy_rules.cluster import cluster
from support.kube_proxy_rules.iptables_mode import iptables_rules
from support.kube_proxy_rules.ipvs_mode import ipvs_rules
from support.kube_proxy_rules.neighbours import neighbour_rules

OLD = """*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-MARK-DROP - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-FW-ABCDEFGHIJKLMNOP - [0:0]
:KUBE-XLB-ABCDEFGHIJKLMNOP - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-DROP -j MARK --set-xmark 0x8000/0x8000
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-SERVICES -j KUBE-FW-ABCDEFGHIJKLMNOP
-A KUBE-FW-ABCDEFGHIJKLMNOP -j KUBE-XLB-ABCDEFGHIJKLMNOP
-A KUBE-FW-ABCDEFGHIJKLMNOP -j KUBE-MARK-DROP
-A KUBE-XLB-ABCDEFGHIJKLMNOP -j KUBE-MARK-MASQ
COMMIT
"""
USERSPACE = """*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-NODEPORT-CONTAINER - [0:0]
:KUBE-NODEPORT-HOST - [0:0]
:KUBE-PORTALS-CONTAINER - [0:0]
:KUBE-PORTALS-HOST - [0:0]
-A PREROUTING -m comment --comment "handle ClusterIPs; NOTE: this must be before the NodePort rules" -j KUBE-PORTALS-CONTAINER
-A PREROUTING -m addrtype --dst-type LOCAL -m comment --comment "handle service NodePorts; NOTE: this must be the last rule in the chain" -j KUBE-NODEPORT-CONTAINER
-A OUTPUT -m comment --comment "handle ClusterIPs; NOTE: this must be before the NodePort rules" -j KUBE-PORTALS-HOST
-A OUTPUT -m addrtype --dst-type LOCAL -m comment --comment "handle service NodePorts; NOTE: this must be the last rule in the chain" -j KUBE-NODEPORT-HOST
-A KUBE-PORTALS-CONTAINER -d 10.0.1.175/32 -p tcp -m comment --comment "default/web:p80" -m tcp --dport 80 -j REDIRECT --to-ports 48577
COMMIT
*filter
:INPUT ACCEPT [0:0]
:KUBE-NODEPORT-NON-LOCAL - [0:0]
-A INPUT -m comment --comment "Ensure that non-local NodePort traffic can flow" -j KUBE-NODEPORT-NON-LOCAL
COMMIT
"""  # noqa: E501 - one rule is one line
MAPPED = """*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:CNI-DN-0123 - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A CNI-DN-0123 -p tcp -m tcp --dport 9090 -j KUBE-MARK-MASQ
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-SERVICES -j KUBE-MARK-MASQ
COMMIT
"""


def written(text: str) -> set[tuple[str, str]]:
    """Chains that an input of iptables-restore declares."""
    found, table = set(), ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            found.add((table, line[1:].split(" ")[0]))
    return found


@pytest.mark.parametrize("family", list(Family), ids=["ip", "ip6"])
@pytest.mark.parametrize("mode", [iptables_rules, ipvs_rules], ids=["iptables", "ipvs"])
def test_everything_that_it_wrote_and_nothing_of_its_neighbours(mode: object, family: Family) -> None:
    own = mode(cluster(family))  # type: ignore[operator]  # one of two functions
    # Jumps are put in front: iptables-save prints them as appended.
    saved = neighbour_rules(cluster(family)) + re.sub(r"^-I (\w+) 1 ", r"-A \1 ", own, flags=re.MULTILINE)
    rules = read_rules(saved)
    assert rules.chains == written(own)
    assert len(rules.jumps) == own.count("\n-I ")
    assert rules.kept == frozenset()


def test_the_kubelets_own_chains_are_never_kube_proxys() -> None:
    for name in ("KUBE-FIREWALL", "KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT", "KUBE-MARK-DROP"):
        assert not any(is_chain(table, name) for table in ("nat", "filter", "mangle"))


@pytest.mark.parametrize(
    "name",
    ["KUBE-HOSTPORTS", "KUBE-HP-ABCDEFGHIJKLMNOP", "KUBE-SVC-short", "KUBE-SVC-ABCDEFGHIJKLMNOP1", "KUBE-ROUTER"],
)
def test_names_that_only_look_alike_are_somebody_elses(name: str) -> None:
    assert not is_chain("nat", name)


def test_where_an_old_kubelet_has_masquerade_chains_they_stay() -> None:
    rules = read_rules(OLD)
    assert {name for _, name in rules.chains} == {
        "KUBE-SERVICES", "KUBE-FW-ABCDEFGHIJKLMNOP", "KUBE-XLB-ABCDEFGHIJKLMNOP",
    }  # fmt: skip
    assert {name for _, name in rules.kept} == {"KUBE-MARK-MASQ", "KUBE-POSTROUTING"}
    assert [jump.chain for jump in rules.jumps] == ["PREROUTING"]


def test_chains_of_the_historic_userspace_mode() -> None:
    rules = read_rules(USERSPACE)
    assert rules.chains == {each for each in written(USERSPACE) if each[1].startswith("KUBE-")}
    assert len(rules.jumps) == 5


def test_a_chain_that_a_cni_uses_stays_and_goes_on_working() -> None:
    rules = read_rules(MAPPED)
    assert rules.chains == {("nat", "KUBE-SERVICES")}
    assert {name for _, name in rules.kept} == {"KUBE-MARK-MASQ", "KUBE-POSTROUTING"}
    assert [jump.target for jump in rules.jumps] == ["KUBE-SERVICES"]


def test_a_jump_that_does_not_say_whose_it_is_keeps_its_chain() -> None:
    saved = "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n-A PREROUTING -j KUBE-SERVICES\nCOMMIT\n"
    assert read_rules(saved) == Rules(kept=frozenset({("nat", "KUBE-SERVICES")}))


def test_dispatch_goes_before_what_finishes_with_its_packets() -> None:
    text = removal_text(read_rules(iptables_rules(cluster(Family.IPV4)).replace("-I ", "-A ").replace(" 1 -m", " -m")))
    places = [text.index(f"-X {name}\n") for name in ("KUBE-SERVICES", "KUBE-FORWARD", "KUBE-POSTROUTING")]
    assert places[0] < min(places[1:])
    assert text.index("-D POSTROUTING") > text.index("-D PREROUTING")


def test_nothing_to_remove_is_no_input() -> None:
    assert removal_text(read_rules(neighbour_rules(cluster(Family.IPV4)))) == ""


def test_names_of_sets_are_as_long_as_the_kernel_allows() -> None:
    assert "KUBE-6-LOAD-BALANCER-SOURCE-CID" in SETS
    assert max(map(len, SETS)) == 31
