# SPDX-License-Identifier: Apache-2.0
"""The rules of the static chains, in the order a packet meets them.

All of them stand in nat chains, which see the first packet of a connection and no other. What is dropped or rejected
there never becomes a connection, so its next packet is seen again; what was let through earlier is never harmed.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import TYPE_CHECKING, Final

from pointsman_enforcer.dataplane.nftables import expressions as nft
from pointsman_enforcer.dataplane.nftables import layout, uapi
from pointsman_enforcer.dataplane.nftables.affinity_rules import BORROWED_PRIORITY
from pointsman_enforcer.dataplane.nftables.chains import DROP_CHAIN, MARK_CHAIN, REJECT_CHAIN
from pointsman_enforcer.dataplane.nftables.fields import daddr, frontend_fields, nodeport_fields, saddr
from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_enforcer.dataplane.nftables.settings import PodPrefix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pointsman_enforcer.dataplane.nftables.sets import SetSpec
    from pointsman_enforcer.dataplane.nftables.settings import SkeletonSettings

SERVICES_CHAIN: Final = "services"
NODEPORTS_CHAIN: Final = "nodeports"
PREROUTING_CHAIN: Final = "nat-prerouting"
OUTPUT_CHAIN: Final = "nat-output"
POSTROUTING_CHAIN: Final = "nat-postrouting"

_LOOPBACK: Final = {
    Family.IPV4: ipaddress.ip_network("127.0.0.0/8"),
    Family.IPV6: ipaddress.ip_network("::1/128"),
}
_LOOPBACK_DEVICE: Final = b"lo".ljust(nft.INTERFACE_NAME_BYTES, b"\0")
_ALL_BITS: Final = 0xFFFFFFFF
Rule = tuple["Sequence[bytes]", str]


def static_rules(family: Family, settings: SkeletonSettings) -> dict[str, list[Rule]]:
    """The rules of every static chain, each with its comment."""
    return {
        MARK_CHAIN: [(_mark(settings, set_bit=True), "")],
        REJECT_CHAIN: [([nft.counter(), _reject(family)], "")],
        DROP_CHAIN: [([nft.counter(), nft.verdict(uapi.NF_DROP)], "")],
        NODEPORTS_CHAIN: _nodeports(family, settings),
        SERVICES_CHAIN: _services(family, settings),
        PREROUTING_CHAIN: [([nft.verdict(uapi.NFT_JUMP, SERVICES_CHAIN)], "")],
        OUTPUT_CHAIN: [([nft.verdict(uapi.NFT_JUMP, SERVICES_CHAIN)], "")],
        POSTROUTING_CHAIN: _postrouting(family, settings),
    }


def _services(family: Family, settings: SkeletonSettings) -> list[Rule]:
    key = frontend_fields(family)
    to_cluster_ip = [daddr(family, 0), nft.lookup(0, layout.CLUSTER_IPS.name)]
    blocked = [
        *key,
        nft.lookup(0, layout.FIREWALLED.name),
        *key,
        saddr(family, family.address_bytes // 4 + 2),
        nft.lookup(0, layout.ALLOWED_SOURCES.name, inverted=True),
    ]
    unallocated = [daddr(family, 0), nft.lookup(0, layout.SERVICE_CIDRS.name)]
    dispatch = _dispatch(
        family,
        settings,
        key,
        pod=layout.SERVICE_IPS_FROM_POD,
        host=layout.SERVICE_IPS_FROM_HOST,
        others=layout.SERVICE_IPS,
    )
    return [
        *_cluster_ip_masquerade(family, settings, to_cluster_ip),
        ([*blocked, nft.counter(), nft.verdict(uapi.NF_DROP)], "outside loadBalancerSourceRanges"),
        *dispatch,
        ([*to_cluster_ip, nft.counter(), _reject(family)], "a port this service does not have"),
        ([*unallocated, nft.counter(), nft.verdict(uapi.NF_DROP)], "an address no service has"),
        ([*_to_nodeport_address(family), nft.verdict(uapi.NFT_GOTO, NODEPORTS_CHAIN)], ""),
    ]


def _nodeports(family: Family, settings: SkeletonSettings) -> list[Rule]:
    return _dispatch(
        family,
        settings,
        nodeport_fields(0),
        pod=layout.NODEPORTS_FROM_POD,
        host=layout.NODEPORTS_FROM_HOST,
        others=layout.NODEPORTS,
    )


def _dispatch(
    family: Family, settings: SkeletonSettings, key: Sequence[bytes], *, pod: SetSpec, host: SetSpec, others: SetSpec
) -> list[Rule]:
    """A pod, whatever its address, comes before this host: that is the order of kube-proxy."""
    pods = _from_pods(family, settings)
    own = [nft.fib_type(0, nft.Fib.SADDR), nft.cmp(0, _host_u32(nft.RTN_LOCAL))]
    from_pod: list[Rule] = [] if pods is None else [([*pods, *key, nft.lookup_verdict(0, pod.name)], "")]
    return [
        *from_pod,
        ([*own, *key, nft.lookup_verdict(0, host.name)], ""),
        ([*key, nft.lookup_verdict(0, others.name)], ""),
    ]


def _cluster_ip_masquerade(family: Family, settings: SkeletonSettings, to_cluster_ip: Sequence[bytes]) -> list[Rule]:
    """Who is no pod cannot be answered by a pod directly, so its traffic to cluster IPs is masqueraded."""
    mark = nft.verdict(uapi.NFT_JUMP, MARK_CHAIN)
    if settings.masquerade_all:
        return [([*to_cluster_ip, mark], "masquerade all")]
    pods = _from_pods(family, settings, negated=True)
    if pods is None:
        return []
    return [([*to_cluster_ip, *pods, mark], "not from a pod")]


def _from_pods(family: Family, settings: SkeletonSettings, *, negated: bool = False) -> list[bytes] | None:
    """Match traffic of pods, or all other traffic; None when nothing ever matches."""
    pods = settings.pods
    if pods is None:
        return None
    if isinstance(pods, PodPrefix):
        if pods.network.version != (4 if family is Family.IPV4 else 6):
            raise ValueError(f"pod prefix {pods.network} is not of family {family.keyword}")
        if pods.network.prefixlen == 0:
            return None if negated else []
        return [saddr(family, 0), *_in_prefix(pods.network, equal=not negated)]
    name = pods.name.encode("ascii")
    value = name if pods.prefix else name.ljust(nft.INTERFACE_NAME_BYTES, b"\0")
    return [nft.meta(0, nft.Meta.IIFNAME), nft.cmp(0, value, equal=not negated)]


def _to_nodeport_address(family: Family) -> list[bytes]:
    """An address of this host that node ports answer on; never loopback, whatever the set says."""
    return [
        daddr(family, 0),
        nft.lookup(0, layout.NODEPORT_ADDRESSES.name),
        daddr(family, 0),
        *_in_prefix(_LOOPBACK[family], equal=False),
        nft.fib_type(0, nft.Fib.DADDR),
        nft.cmp(0, _host_u32(nft.RTN_LOCAL)),
    ]


def _postrouting(family: Family, settings: SkeletonSettings) -> list[Rule]:
    bit = 1 << settings.masquerade_bit
    marked = [
        nft.meta(0, nft.Meta.MARK),
        nft.bitwise(0, _host_u32(bit), _host_u32(0)),
        nft.cmp(0, _host_u32(bit)),
    ]
    translated = [
        nft.ct(0, nft.Ct.STATUS),
        nft.bitwise(0, _host_u32(nft.IPS_DST_NAT), _host_u32(0)),
        nft.cmp(0, _host_u32(0), equal=False),
    ]
    lent = _host_u32(BORROWED_PRIORITY)
    borrowed = [nft.meta(0, nft.Meta.PRIORITY), nft.bitwise(0, lent, _host_u32(0)), nft.cmp(0, lent)]
    restore = [nft.immediate(0, _host_u32(0)), nft.meta_set(nft.Meta.PRIORITY, 0)]
    to_itself = [saddr(family, 0), daddr(family, family.address_bytes // 4), nft.lookup(0, layout.HAIRPIN.name)]
    elsewhere = (
        [] if settings.masquerade_local else [nft.meta(0, nft.Meta.OIFNAME), nft.cmp(0, _LOOPBACK_DEVICE, equal=False)]
    )
    return [
        ([*translated, *borrowed, *restore], "session affinity has used it"),
        ([*marked, *_mark(settings, set_bit=False), *elsewhere, nft.masquerade()], ""),
        ([*translated, *to_itself, nft.masquerade()], "an endpoint that was sent to itself"),
    ]


def _mark(settings: SkeletonSettings, *, set_bit: bool) -> list[bytes]:
    """Set the bit, or flip it where it is known to be set; the other 31 bits belong to others."""
    bit = 1 << settings.masquerade_bit
    mask = _ALL_BITS ^ bit if set_bit else _ALL_BITS
    return [
        nft.meta(0, nft.Meta.MARK),
        nft.bitwise(0, _host_u32(mask), _host_u32(bit)),
        nft.meta_set(nft.Meta.MARK, 0),
    ]


def _in_prefix(network: ipaddress.IPv4Network | ipaddress.IPv6Network, *, equal: bool) -> list[bytes]:
    """Match the address in register 0 against a prefix longer than zero."""
    whole = (
        []
        if network.prefixlen == network.max_prefixlen
        else [nft.bitwise(0, network.netmask.packed, bytes(network.max_prefixlen // 8))]
    )
    return [*whole, nft.cmp(0, network.network_address.packed, equal=equal)]


def _reject(family: Family) -> bytes:
    return nft.reject(nft.ICMP_PORT_UNREACHABLE if family is Family.IPV4 else nft.ICMPV6_PORT_UNREACHABLE)


def _host_u32(number: int) -> bytes:
    """Marks, status bits and route types are numbers of the host, not of the packet."""
    return struct.pack("=I", number)
