# SPDX-License-Identifier: Apache-2.0
"""The sets and maps of our table and how their keys and values are packed.

A *frontend* is (address, protocol, port) or, for a node port, (protocol, port). Its *slots* number the endpoints of its
two sets: the cluster set from 0, the local set from `LOCAL_SLOT_BASE`.

Packed numbers are big-endian, as in a packet, except slot, mark and priority: the kernel makes those itself (numgen,
jhash, meta mark, meta priority), in the byte order of the host.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import TYPE_CHECKING, Final

from pointsman_enforcer.dataplane.nftables.sets import SLOTS, Field, SetSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pointsman_enforcer.dataplane.nftables.message import Family

    Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LOCAL_SLOT_BASE: Final = SLOTS
SLOTS_MAX: Final = SLOTS - 1
"""Most slots one endpoint set may have."""

_FRONTEND: Final = (Field.ADDRESS, Field.PROTOCOL, Field.PORT)
_NODEPORT: Final = (Field.PROTOCOL, Field.PORT)
_ENDPOINT: Final = (Field.ADDRESS, Field.PORT)

SERVICE_IPS: Final = SetSpec(
    name="service_ips", key=_FRONTEND, verdicts=True, words="what happens to traffic to a service address"
)
SERVICE_IPS_FROM_POD: Final = SetSpec(
    name="service_ips_from_pod", key=_FRONTEND, verdicts=True, words="the same for pods, where it differs"
)
SERVICE_IPS_FROM_HOST: Final = SetSpec(
    name="service_ips_from_host", key=_FRONTEND, verdicts=True, words="the same for this host, where it differs"
)
NODEPORTS: Final = SetSpec(
    name="service_nodeports", key=_NODEPORT, verdicts=True, words="what happens to traffic to a node port"
)
NODEPORTS_FROM_POD: Final = SetSpec(
    name="service_nodeports_from_pod", key=_NODEPORT, verdicts=True, words="the same for pods, where it differs"
)
NODEPORTS_FROM_HOST: Final = SetSpec(
    name="service_nodeports_from_host", key=_NODEPORT, verdicts=True, words="the same for this host, where it differs"
)
ENDPOINTS: Final = SetSpec(
    name="endpoints", key=(*_FRONTEND, Field.SLOT), data=_ENDPOINT, words="endpoints by service address and slot"
)
NODEPORT_ENDPOINTS: Final = SetSpec(
    name="nodeport_endpoints", key=(*_NODEPORT, Field.SLOT), data=_ENDPOINT, words="endpoints by node port and slot"
)
CLUSTER_IPS: Final = SetSpec(
    name="cluster_ips", key=(Field.ADDRESS,), words="active cluster IPs: other ports are rejected"
)
SERVICE_CIDRS: Final = SetSpec(
    name="service_cidrs", key=(Field.ADDRESS,), interval=True, words="addresses no service has are dropped"
)
NODEPORT_ADDRESSES: Final = SetSpec(
    name="nodeport_addresses", key=(Field.ADDRESS,), interval=True, words="where node ports answer, if local"
)
FIREWALLED: Final = SetSpec(name="firewalled", key=_FRONTEND, words="load balancer addresses with source ranges")
ALLOWED_SOURCES: Final = SetSpec(
    name="allowed_sources", key=(*_FRONTEND, Field.ADDRESS), interval=True, words="who may use them"
)
HAIRPIN: Final = SetSpec(
    name="hairpin", key=(Field.ADDRESS, Field.ADDRESS), words="endpoints here that may be sent to themselves"
)
AFFINITY_MAX: Final = 1 << 20
"""Most clients that are remembered, of all services of one family together. Memory is taken as they come."""
AFFINITY_IDS: Final = SetSpec(
    name="affinity_ids", key=_FRONTEND, data=(Field.PRIORITY,), words="which port with session affinity an address is"
)
AFFINITY_NODEPORT_IDS: Final = SetSpec(
    name="affinity_nodeport_ids", key=_NODEPORT, data=(Field.PRIORITY,), words="the same for node ports"
)
AFFINITY_PICKS: Final = SetSpec(
    name="affinity_picks",
    key=(Field.PRIORITY, Field.SLOT),
    data=(Field.PRIORITY,),
    words="first endpoint by port and hash of the client",
)
AFFINITY_ENDPOINTS: Final = SetSpec(
    name="affinity_endpoints", key=(Field.PROTOCOL, Field.PRIORITY), data=_ENDPOINT, words="who may be remembered"
)
AFFINITY_LOCAL_ENDPOINTS: Final = SetSpec(
    name="affinity_local_endpoints", key=(Field.PROTOCOL, Field.PRIORITY), data=_ENDPOINT, words="the local ones"
)
AFFINITY: Final = SetSpec(
    name="affinity",
    key=(Field.PRIORITY, Field.ADDRESS),
    data=(Field.PRIORITY,),
    timeout=True,
    size=AFFINITY_MAX,
    words="the memory: endpoint by port and client",
)
STATE: Final = SetSpec(name="state", key=(Field.MARK,), words="what this table was made from: 1 skeleton, 2 plan")

ALL_SETS: Final = (
    SERVICE_IPS,
    SERVICE_IPS_FROM_POD,
    SERVICE_IPS_FROM_HOST,
    NODEPORTS,
    NODEPORTS_FROM_POD,
    NODEPORTS_FROM_HOST,
    ENDPOINTS,
    NODEPORT_ENDPOINTS,
    CLUSTER_IPS,
    SERVICE_CIDRS,
    NODEPORT_ADDRESSES,
    FIREWALLED,
    ALLOWED_SOURCES,
    HAIRPIN,
    AFFINITY_IDS,
    AFFINITY_NODEPORT_IDS,
    AFFINITY_PICKS,
    AFFINITY_ENDPOINTS,
    AFFINITY_LOCAL_ENDPOINTS,
    AFFINITY,
    STATE,
)

STATE_SKELETON: Final = struct.pack("=I", 1)
STATE_PLAN: Final = struct.pack("=I", 2)

_NODEPORT_KEY: Final = struct.Struct(">BxxxHxx")
_SLOT: Final = struct.Struct("=I")
_PORT: Final = struct.Struct(">Hxx")


def frontend_key(address: bytes, protocol: int, port: int) -> bytes:
    """Key of a service address: 12 bytes (IPv4) or 24 (IPv6). `address` is 4 or 16 bytes, `protocol` the IP number."""
    return address + _NODEPORT_KEY.pack(protocol, port)


def nodeport_key(protocol: int, port: int) -> bytes:
    """Key of a node port: 8 bytes."""
    return _NODEPORT_KEY.pack(protocol, port)


def slot_key(frontend: bytes, slot: int) -> bytes:
    """Key in `endpoints` or `nodeport_endpoints`: that of the frontend and four bytes of slot."""
    return frontend + _SLOT.pack(slot)


def endpoint_value(address: bytes, port: int) -> bytes:
    """Value in both endpoint maps: 8 bytes (IPv4) or 20 (IPv6)."""
    return address + _PORT.pack(port)


def hairpin_key(address: bytes) -> bytes:
    """Key in `hairpin`: an endpoint's address as source and as destination."""
    return address + address


def source_ranges(frontend: bytes, networks: Iterable[Network]) -> list[tuple[bytes, bytes]]:
    """Ranges in `allowed_sources` that admit exactly `networks` (of the table's family) to a frontend."""
    return [(frontend + first, frontend + last) for first, last in address_ranges(networks)]


def address_ranges(networks: Iterable[Network]) -> list[tuple[bytes, bytes]]:
    """Disjoint ranges (first, last address) in ascending order that cover exactly `networks`, all of one family."""
    ranges: list[tuple[int, int, int]] = []
    for network in sorted(networks, key=lambda each: (int(each.network_address), -each.prefixlen)):
        first, last = int(network.network_address), int(network.broadcast_address)
        if ranges and first <= ranges[-1][1] + 1:
            width, start = ranges[-1][2], ranges[-1][0]
            ranges[-1] = (start, max(last, ranges[-1][1]), width)
        else:
            ranges.append((first, last, network.max_prefixlen // 8))
    return [(first.to_bytes(width, "big"), last.to_bytes(width, "big")) for first, last, width in ranges]


def packed(address: str, family: Family) -> bytes:
    """An address as bytes; ValueError when it is not one of that family."""
    parsed = ipaddress.ip_address(address)
    if len(parsed.packed) != family.address_bytes:
        raise ValueError(f"{address} is not an address of family {family.keyword}")
    return parsed.packed
