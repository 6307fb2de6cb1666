# SPDX-License-Identifier: Apache-2.0
"""What belongs to the node and to others: timeouts, sysctls, foreign virtual servers, excludeCIDRs, refusals."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pointsman_enforcer.dataplane.base import KernelError
from pointsman_enforcer.dataplane.ipvs.genetlink.model import Timeouts
from pointsman_enforcer.dataplane.ipvs.layout import Kind, pack, records
from pointsman_model.names import Family, parse_prefix
from support.ipvs_node import ENDPOINTS, TARGET, VIP, IpvsNode, plan_of, who

A, B, _ = ENDPOINTS[Family.IPV4]
EXCLUDED = "192.0.2.80"
FOREIGN = f"-A -t {EXCLUDED}:80 -s rr"
FOREIGN_REAL = f"-a -t {EXCLUDED}:80 -r 192.0.2.81:80 -m -w 1"
STICKY = {"affinity_timeout_seconds": 60}


@pytest.fixture(name="node", scope="module")
def one_node() -> Iterator[IpvsNode]:
    with IpvsNode(exclude_cidrs=(parse_prefix("192.0.2.0/24"),)) as node:
        yield node


@pytest.fixture(name="foreign")
def somebody_elses(node: IpvsNode) -> Iterator[None]:
    node.program({})
    node.namespace.run(*f"ipvsadm {FOREIGN}".split())
    node.namespace.run(*f"ipvsadm {FOREIGN_REAL}".split())
    yield
    node.namespace.run("ipvsadm", "-D", "-t", f"{EXCLUDED}:80")


@pytest.mark.usefixtures("foreign")
def test_virtual_servers_of_others_outlive_changes_restarts_and_the_clean_up(node: IpvsNode) -> None:
    node.program({"web": plan_of(A, B), "sticky": plan_of(A, vip="172.30.0.42", **STICKY)})
    node.restart()
    node.program({"web": plan_of(B)})
    node.remove_leftovers()
    node.run(node.dataplane.cleanup())
    assert node.servers() == [FOREIGN, FOREIGN_REAL]
    node.restart()


@pytest.mark.usefixtures("foreign")
def test_in_excluded_blocks_a_virtual_server_of_somebody_else_is_never_taken_over(node: IpvsNode) -> None:
    with pytest.raises(KernelError, match="excludeCIDRs"):
        node.program({"mine": plan_of(A, vip=EXCLUDED, **STICKY)})
    assert [line for line in node.servers() if EXCLUDED in line] == [FOREIGN, FOREIGN_REAL]
    node.program({"web": plan_of(A)})
    assert who(node) == A


def test_elsewhere_it_is_taken_over_as_kube_proxy_does(node: IpvsNode) -> None:
    node.program({})
    node.namespace.run("ipvsadm", "-A", "-t", "172.30.0.43:80", "-s", "lc")
    node.namespace.run("ipvsadm", "-a", "-t", "172.30.0.43:80", "-r", "192.0.2.81:80", "-m")
    node.program({"mine": plan_of(A, vip="172.30.0.43", **STICKY)})
    node.mend()
    mine = [line for line in node.servers() if "172.30.0.43" in line]
    assert mine == ["-A -t 172.30.0.43:80 -s rr -p 60", f"-a -t 172.30.0.43:80 -r {A}:{TARGET} -m -w 1"]


def test_a_refused_change_is_taken_back_as_a_whole(node: IpvsNode) -> None:
    node.program({"web": plan_of(A)})
    before = node.servers()
    wanted = node.dataplane.render(plan_of(A, B), b"")
    too_heavy = {
        record: (1 << 31).to_bytes(4, "big") if record.kind is Kind.REAL else value for record, value in records(wanted)
    }
    change = node.dataplane.diff(b"", pack(too_heavy))
    change.additions = {record: value for record, value in change.additions.items() if record.kind is not Kind.MEMBER}
    change.include(node.dataplane.diff(b"", node.dataplane.render(plan_of(B, vip="172.30.0.49"), b"")))
    with pytest.raises(KernelError, match="refused") as caught:
        node.run(node.dataplane.apply(change))
    assert caught.value.outcome_known
    assert node.servers() == before
    node.program({"web": plan_of(A, B)})
    assert {who(node) for _ in range(6)} == {A, B}
    assert node.differing() == ""


def test_timeouts_are_set_put_back_when_changed_and_restored_by_the_clean_up(node: IpvsNode) -> None:
    before = _timeouts(node)
    node.restart(timeouts=Timeouts(tcp=1234, udp=99))
    assert _timeouts(node) == ["1234", before[1], "99"]
    node.namespace.run("ipvsadm", "--set", "0", "0", "7")
    assert node.mend().objects
    assert _timeouts(node) == ["1234", before[1], "99"]
    node.run(node.dataplane.cleanup())
    assert _timeouts(node) == before
    node.restart(timeouts=Timeouts())


def test_strict_arp_sets_what_kube_proxy_sets_and_only_when_asked(node: IpvsNode) -> None:
    names = ("net.ipv4.conf.all.arp_ignore", "net.ipv4.conf.all.arp_announce")
    assert [node.namespace.run("sysctl", "-n", name).strip() for name in names] == ["0", "0"]
    node.restart(strict_arp=True)
    assert [node.namespace.run("sysctl", "-n", name).strip() for name in names] == ["1", "2"]
    node.namespace.run("sysctl", "-qw", f"{names[0]}=0")
    assert node.mend().kinds == ("route",)
    assert node.namespace.run("sysctl", "-n", names[0]).strip() == "1"
    node.restart(strict_arp=False)


def test_no_address_of_a_service_is_put_on_a_device(node: IpvsNode) -> None:
    node.program({"web": plan_of(A)})
    assert who(node) == A
    assert VIP[Family.IPV4] not in node.namespace.run("ip", "address")
    assert who(node, VIP[Family.IPV4], TARGET) == "ConnectionRefusedError"


def _timeouts(node: IpvsNode) -> list[str]:
    """TCP, TCP after FIN, UDP, in seconds."""
    return node.namespace.run("ipvsadm", "-L", "--timeout").partition(":")[2].split()
