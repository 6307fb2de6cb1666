# SPDX-License-Identifier: Apache-2.0
"""A dual-stack node with two serving pods, a client pod and a client outside, on which a kube-proxy has been at work.

client 203.0.113.2, .130 --- out0 [node] pod-1 --- pod1 10.0.1.2
                                         pod-2 --- pod2 10.0.2.2
                                         pod-3 --- pod  10.0.3.2
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Self

from pointsman_enforcer.dataplane.nftables.message import Family
from support.kube_proxy_rules.cluster import TARGET_PORT, KubeCluster, cluster
from support.kube_proxy_rules.iptables_mode import iptables_rules
from support.kube_proxy_rules.ipvs_mode import (
    SYSCTLS,
    TIMEOUTS_SECONDS,
    ip_commands,
    ipset_commands,
    ipvs_rules,
    ipvsadm_rules,
)
from support.kube_proxy_rules.neighbours import neighbour_rules
from support.kube_proxy_rules.nftables_mode import nftables_rules
from support.netns import NetNs, veth
from support.traffic import EchoServer

if TYPE_CHECKING:
    from types import TracebackType

MODES = ("iptables-legacy", "iptables-nft", "nftables", "ipvs")
"""kube-proxy's; ipvs needs a kernel that has it."""
_OURS = re.compile(r"POINTSMAN|pointsman")
_COUNTERS = re.compile(r" \[\d+:\d+\]$")


class KubeProxyWorld:
    """The namespaces and what is in the node's kernel; a context manager that removes them."""

    def __init__(self, variant: str = "nft") -> None:
        """`variant` is the tool of the node's kubelet and CNI."""
        self.variant = variant
        self.clusters = [cluster(family) for family in Family]
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.node, self.client, self.pod1, self.pod2, self.pod = (
                stack.enter_context(NetNs(label)) for label in ("node", "client", "pod1", "pod2", "pod")
            )
            self._wire()
            stack.enter_context(EchoServer(self.pod1, "pod1", TARGET_PORT))
            stack.enter_context(EchoServer(self.pod2, "pod2", TARGET_PORT))
            self._install_neighbours()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    def install(self, mode: str) -> None:
        """Write what a kube-proxy of this mode has written by the time it has nothing more to do."""
        if mode == "nftables":
            self.node.run("nft", "-f", "-", stdin="".join(map(nftables_rules, self.clusters)))
        elif mode == "ipvs":
            self._install_ipvs()
        else:
            variant = mode.removeprefix("iptables-")
            for each in self.clusters:
                self.restore(variant, each, iptables_rules(each))

    def restore(self, variant: str, cluster: KubeCluster, text: str) -> None:
        """Run iptables-restore of a family."""
        tool = "iptables" if cluster.family is Family.IPV4 else "ip6tables"
        self.node.run(f"{tool}-{variant}-restore", "-w", "5", "--noflush", stdin=text)

    def others(self) -> str:
        """Chains and rules of iptables, of both variants and families, that are not ours."""
        return "\n".join(line for line in self.rules() if not _OURS.search(line))

    def rules(self) -> list[str]:
        """All chains and rules of iptables with the tool and table, without counters and plain built-in chains."""
        found = []
        for variant in ("legacy", "nft"):
            for tool in ("iptables", "ip6tables"):
                table = ""
                for line in self.node.run(f"{tool}-{variant}-save").splitlines():
                    table = line if line.startswith("*") else table
                    is_rule = line.startswith("-A ") or (line.startswith(":") and " ACCEPT " not in line)
                    if is_rule:
                        found.append(f"{tool}-{variant} {table} {_COUNTERS.sub('', line)}")
        return found

    def _install_neighbours(self) -> None:
        for each in self.clusters:
            self.restore(self.variant, each, neighbour_rules(each))

    def _install_ipvs(self) -> None:
        for key, value in SYSCTLS.items():
            self.node.sysctl(key, value)
        self.node.run("ip", "link", "add", "kube-ipvs0", "type", "dummy")
        self.node.run("ipvsadm", "--set", *map(str, TIMEOUTS_SECONDS))
        for each in self.clusters:
            self.node.run("ip", "-batch", "-", stdin=ip_commands(each))
            self.node.run("ipset", "restore", stdin=ipset_commands(each))
            self.restore("legacy", each, ipvs_rules(each))
            self.node.run("ipvsadm", "--restore", stdin=ipvsadm_rules(each))

    def _wire(self) -> None:
        node, client = self.node, self.client
        node.forwarding()
        for key in ("net.ipv4.icmp_ratelimit", "net.ipv6.icmp.ratelimit"):
            node.sysctl(key, 0)
        veth(node, "out0", client, "eth0")
        pods = (self.pod1, self.pod2, self.pod)
        for number, namespace in enumerate(pods, start=1):
            veth(node, f"pod-{number}", namespace, "eth0")
        for each in self.clusters:
            at, bits = each.at, each.at.prefix_bits
            places = ((at.pod1, at.gateway1), (at.pod2, at.gateway2), (at.pod, at.gateway))
            for number, (namespace, (address, gateway)) in enumerate(zip(pods, places, strict=True), start=1):
                node.address(f"pod-{number}", f"{gateway}/{bits}")
                namespace.address("eth0", f"{address}/{bits}")
                namespace.route("default", "via", gateway)
            node.address("out0", f"{at.uplink}/{bits}", f"{at.node}/{each.host_bits}")
            client.address("eth0", f"{at.client}/{bits}")
            # Deprecated, so that nothing is sent from it unless a test binds it.
            client.run("ip", "address", "add", f"{at.blocked}/{bits}", "dev", "eth0", "preferred_lft", "0")
            client.route("default", "via", at.uplink)
            node.route("default", "via", at.client, "src", at.uplink)
