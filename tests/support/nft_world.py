# SPDX-License-Identifier: Apache-2.0
"""A node, an outside client, two pods that serve, one that does not; and hand-built nf_tables elements for it.

client 203.0.113.2, .130 --- out0 [node] p1 --- pod1 10.0.1.2
                                         p2 --- pod2 10.0.2.2
                                         p3 --- pod  10.0.3.2

The client is also the node's default route, so what the node leaves alone arrives there, where nobody listens except
on request. IPv6 has the same shape.
"""

from __future__ import annotations

import contextlib
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from pointsman_enforcer.dataplane.nftables import layout
from pointsman_enforcer.dataplane.nftables.chains import endpoint_chain_of
from pointsman_enforcer.dataplane.nftables.elements import add_elements, add_keys, add_ranges
from pointsman_enforcer.dataplane.nftables.message import Batch, Family, Table
from pointsman_enforcer.dataplane.nftables.netlink import NftSocket
from pointsman_enforcer.dataplane.nftables.settings import PodPrefix, SkeletonSettings
from pointsman_enforcer.dataplane.nftables.skeleton import replacement
from support.netns import NetNs, veth
from support.traffic import EchoServer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from pointsman_enforcer.dataplane.nftables.message import Message
    from pointsman_enforcer.dataplane.nftables.sets import SetSpec

TCP, UDP, SCTP = 6, 17, 132
ECHO_PORT = 8080


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """The addresses of one family."""

    prefix_bits: int
    pods: str
    pod1: str
    pod2: str
    pod: str
    gateway1: str
    gateway2: str
    gateway: str
    client: str
    blocked: str
    uplink: str
    node: str
    secondary: str
    cluster_ip: str
    unallocated: str
    service_cidr: str
    load_balancer: str
    allowed: str
    anywhere: str
    loopback: str


ADDRESSES = {
    Family.IPV4: Addresses(
        prefix_bits=24, pods="10.0.0.0/16", pod1="10.0.1.2", pod2="10.0.2.2", pod="10.0.3.2",
        gateway1="10.0.1.1", gateway2="10.0.2.1", gateway="10.0.3.1",
        client="203.0.113.2", blocked="203.0.113.130", uplink="203.0.113.1", node="192.168.0.2",
        secondary="192.168.1.2", cluster_ip="172.30.0.41", unallocated="172.30.0.50", service_cidr="172.30.0.0/16",
        load_balancer="1.2.3.4", allowed="203.0.113.0/25", anywhere="0.0.0.0/0", loopback="127.0.0.1",
    ),
    Family.IPV6: Addresses(
        prefix_bits=64, pods="fd00:10::/48", pod1="fd00:10:0:1::2", pod2="fd00:10:0:2::2",
        pod="fd00:10:0:3::2", gateway1="fd00:10:0:1::1",
        gateway2="fd00:10:0:2::1", gateway="fd00:10:0:3::1", client="2001:db8:113::2",
        blocked="2001:db8:113::8002", uplink="2001:db8:113::1",
        node="2001:db8::2", secondary="2001:db8:1::2", cluster_ip="fd00:96::41", unallocated="fd00:96::50",
        service_cidr="fd00:96::/112", load_balancer="2001:db8:ffff::4", allowed="2001:db8:113::/113", anywhere="::/0",
        loopback="::1",
    ),
}  # fmt: skip


class World:
    """The namespaces, the echo servers `pod1` and `pod2`, and the table of one family."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.table = Table(family=family)
        self.at = ADDRESSES[family]
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.node, self.client, self.pod1, self.pod2, self.pod = (
                stack.enter_context(NetNs(label)) for label in ("node", "client", "pod1", "pod2", "pod")
            )
            self._wire()
            self.nft = stack.enter_context(self.node.call(NftSocket))
            stack.enter_context(EchoServer(self.pod1, "pod1", ECHO_PORT))
            stack.enter_context(EchoServer(self.pod2, "pod2", ECHO_PORT))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    def _wire(self) -> None:
        at, bits = self.at, self.at.prefix_bits
        host_bits = self.family.address_bytes * 8
        self.node.forwarding()
        self.node.sysctl("net.ipv4.icmp_ratelimit", 0)
        self.node.sysctl("net.ipv6.icmp.ratelimit", 0)
        veth(self.node, "out0", self.client, "eth0")
        pods = ((self.pod1, at.pod1, at.gateway1), (self.pod2, at.pod2, at.gateway2), (self.pod, at.pod, at.gateway))
        for number, (namespace, address, gateway) in enumerate(pods, start=1):
            veth(self.node, f"pod-{number}", namespace, "eth0")
            self.node.address(f"pod-{number}", f"{gateway}/{bits}")
            namespace.address("eth0", f"{address}/{bits}")
            namespace.route("default", "via", gateway)
        self.node.address("out0", f"{at.uplink}/{bits}", f"{at.node}/{host_bits}", f"{at.secondary}/{host_bits}")
        self.client.address("eth0", f"{at.client}/{bits}")
        # Deprecated, so that nothing is sent from it unless a test binds it.
        self.client.run("ip", "address", "add", f"{at.blocked}/{bits}", "dev", "eth0", "preferred_lft", "0")
        self.client.route("default", "via", at.uplink)
        self.node.route("default", "via", at.client, "src", at.uplink)

    def settings(self) -> SkeletonSettings:
        """Pods are told by their addresses."""
        return SkeletonSettings(pods=PodPrefix(network=ipaddress.ip_network(self.at.pods)))

    def install(self, *changes: Sequence[Message], settings: SkeletonSettings | None = None) -> None:
        """Start from an empty table: the skeleton, the service CIDR, the node port address, and `changes`."""
        at = self.at
        self.commit(
            replacement(self.table, settings or self.settings()),
            self.ranges(layout.SERVICE_CIDRS, at.service_cidr),
            self.ranges(layout.NODEPORT_ADDRESSES, f"{at.node}/{self.family.address_bytes * 8}"),
            *changes,
        )

    def commit(self, *changes: Sequence[Message]) -> None:
        """All changes in one transaction."""
        batch = Batch()
        for messages in changes:
            batch.extend(messages)
        self.nft.commit_blocking(batch)

    def packed(self, address: str) -> bytes:
        return layout.packed(address, self.family)

    def key(self, address: str, port: int = 80, protocol: int = TCP) -> bytes:
        return layout.frontend_key(self.packed(address), protocol, port)

    def ranges(self, spec: SetSpec, *networks: str) -> list[Message]:
        """Add networks to an interval set of addresses."""
        return add_ranges(self.table, spec, layout.address_ranges(ipaddress.ip_network(each) for each in networks))

    def verdict(self, spec: SetSpec, key: bytes, chain: str) -> list[Message]:
        """A frontend's verdict, and the endpoint chain it needs."""
        wanted = endpoint_chain_of(chain)
        made = [] if wanted is None else wanted.messages(self.table)
        return [*made, *add_elements(self.table, spec, [(key, chain.encode())])]

    def endpoints(self, spec: SetSpec, key: bytes, *addresses: str, base: int = 0) -> list[Message]:
        """Endpoints of a frontend, one slot each."""
        return add_elements(
            self.table,
            spec,
            [
                (layout.slot_key(key, base + slot), layout.endpoint_value(self.packed(address), ECHO_PORT))
                for slot, address in enumerate(addresses)
            ],
        )

    def cluster_ip(
        self, chain: str = "cluster-2", port: int = 80, protocols: Sequence[int] = (TCP, UDP)
    ) -> list[Message]:
        """The usual cluster IP with both pods behind it, or any other verdict."""
        messages = add_keys(self.table, layout.CLUSTER_IPS, [self.packed(self.at.cluster_ip)])
        for protocol in protocols:
            key = self.key(self.at.cluster_ip, port, protocol)
            messages += self.verdict(layout.SERVICE_IPS, key, chain)
            messages += self.endpoints(layout.ENDPOINTS, key, self.at.pod1, self.at.pod2)
        return messages
