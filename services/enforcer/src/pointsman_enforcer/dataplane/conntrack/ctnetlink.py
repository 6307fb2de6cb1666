# SPDX-License-Identifier: Apache-2.0
"""Messages of ctnetlink, the kernel's interface to its connection table. Pure: bytes in, bytes out.

Numbers are named as in <linux/netfilter/nfnetlink_conntrack.h>. A dump is filtered inside the kernel (CTA_FILTER, since
Linux 5.8; an older kernel ignores it and sends more, which costs time and changes no outcome). IPv6 is filtered by
port only: Linux compares IPv6 addresses the wrong way round (ctnetlink_filter_match_tuple takes ipv6_addr_cmp for an
equality), seen up to 6.18.

A deletion names an entry by its reply tuple, which holds the endpoint, and by its identity, into which the kernel mixes
the original tuple. So it finds its entry without a walk, and never hits a younger one that goes somewhere else.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from pointsman_enforcer.core.stale_flows import ATTEMPTS, Flow, Query, packed_endpoint
from pointsman_enforcer.dataplane.nftables.attributes import attribute, nested, parse

NETLINK_NETFILTER: Final = 12
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLM_F_REQUEST: Final = 0x1
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_DUMP: Final = 0x300
NLA_F_NESTED: Final = 0x8000
NFNL_SUBSYS_CTNETLINK: Final = 1
IPCTNL_MSG_CT_NEW: Final = 0
IPCTNL_MSG_CT_GET: Final = 1
IPCTNL_MSG_CT_DELETE: Final = 2

CTA_TUPLE_ORIG: Final = 1
CTA_TUPLE_REPLY: Final = 2
CTA_STATUS: Final = 3
CTA_ID: Final = 12
CTA_ZONE: Final = 18
CTA_FILTER: Final = 25
CTA_STATUS_MASK: Final = 26
CTA_FILTER_ORIG_FLAGS: Final = 1
CTA_FILTER_REPLY_FLAGS: Final = 2
CTA_TUPLE_IP: Final = 1
CTA_TUPLE_PROTO: Final = 2
CTA_TUPLE_ZONE: Final = 3
CTA_PROTO_NUM: Final = 1
CTA_PROTO_SRC_PORT: Final = 2
CTA_PROTO_DST_PORT: Final = 3
FILTER_IP_SRC: Final = 1 << 0
FILTER_IP_DST: Final = 1 << 1
FILTER_PROTO_NUM: Final = 1 << 3
FILTER_PROTO_SRC_PORT: Final = 1 << 4
FILTER_PROTO_DST_PORT: Final = 1 << 5
_SOURCE: Final = {4: 1, 6: 3}
_DESTINATION: Final = {4: 2, 6: 4}
"""CTA_IP_V4_SRC, CTA_IP_V6_SRC; CTA_IP_V4_DST, CTA_IP_V6_DST."""
_ADDRESS_FILTERS: Final = frozenset({4})
"""Families whose addresses the kernel compares rightly."""
_NFPROTO: Final = {0: 0, 4: 2, 6: 10}
"""0: both."""
_ANSWERED_OR_TRANSLATED: Final = 1 << 1 | 1 << 5
"""IPS_SEEN_REPLY, IPS_DST_NAT."""
_FAMILY: Final = {2: 4, 10: 6}

_HEADER: Final = struct.Struct("=IHHII")
_NFGEN: Final = struct.Struct("=BBH")
_HEAD_BYTES: Final = 20


class _Usual(NamedTuple):
    """How the kernel lays out an entry of a family when it is neither in a zone nor of a protocol without ports."""

    original: bytes
    """How the original tuple begins."""
    reply: bytes
    """How the reply tuple begins."""
    pair: struct.Struct
    """Both: source, destination, protocol, source port, destination port."""


def _usual(family: int, address_bytes: int) -> _Usual:
    pair = struct.Struct(">" + 2 * f"12x{address_bytes}s4x{address_bytes}s8xB7xH6xH2x")
    inner = struct.pack(
        "=HHHH", 12 + 2 * address_bytes, CTA_TUPLE_IP | NLA_F_NESTED, 4 + address_bytes, _SOURCE[family]
    )
    original, reply = (
        struct.pack("=HH", pair.size // 2, kind | NLA_F_NESTED) + inner for kind in (CTA_TUPLE_ORIG, CTA_TUPLE_REPLY)
    )
    return _Usual(original, reply, pair)


_USUAL: Final = {4: _usual(4, 4), 6: _usual(6, 16)}


class Entry(NamedTuple):
    """One entry of the table, as read."""

    flow: Flow
    attributes: bytes
    """All of it, for `deletion`."""


class Reply(NamedTuple):
    """One datagram of a dump's answer."""

    entries: list[Entry]
    is_last: bool = False
    error: int = 0
    """errno of a dump that failed."""
    is_interrupted: bool = False
    """The table was rearranged meanwhile: entries may be missing."""


def dump_request(query: Query, sequence: int) -> bytes:
    """Ask for the entries of a query."""
    return _message(IPCTNL_MSG_CT_GET, NLM_F_REQUEST | NLM_F_DUMP, query.family, sequence, b"".join(_filter_of(query)))


def _filter_of(query: Query) -> tuple[bytes, bytes]:
    """The filter and the tuple it filters by."""
    if query == ATTEMPTS:
        mask = attribute(CTA_STATUS_MASK, _ANSWERED_OR_TRANSLATED.to_bytes(4, "big"))
        return attribute(CTA_STATUS, bytes(4)), mask
    family, number = query.family, attribute(CTA_PROTO_NUM, bytes((query.protocol,)))
    if query.answering:
        address, port = query.answering[:-2], query.answering[-2:]
        by_address = family in _ADDRESS_FILTERS
        start = attribute(_SOURCE[family], address) if by_address else b""
        wanted = _tuple(CTA_TUPLE_REPLY, start, number, attribute(CTA_PROTO_SRC_PORT, port))
        fields = FILTER_PROTO_NUM | FILTER_PROTO_SRC_PORT | (FILTER_IP_SRC if by_address else 0)
        return _flags(reply=fields), wanted
    if query.place is None:
        return _flags(original=FILTER_PROTO_NUM), _tuple(CTA_TUPLE_ORIG, b"", number, b"")
    port = attribute(CTA_PROTO_DST_PORT, query.place.port.to_bytes(2, "big"))
    if not query.place.address or family not in _ADDRESS_FILTERS:
        flags = _flags(original=FILTER_PROTO_NUM | FILTER_PROTO_DST_PORT)
        return flags, _tuple(CTA_TUPLE_ORIG, b"", number, port)
    to = attribute(_DESTINATION[family], query.place.address)
    flags = _flags(original=FILTER_IP_DST | FILTER_PROTO_NUM | FILTER_PROTO_DST_PORT)
    return flags, _tuple(CTA_TUPLE_ORIG, to, number, port)


def _flags(original: int = 0, reply: int = 0) -> bytes:
    """These numbers, unlike all others here, are in the machine's byte order."""
    return nested(
        CTA_FILTER,
        attribute(CTA_FILTER_ORIG_FLAGS, struct.pack("=I", original)),
        attribute(CTA_FILTER_REPLY_FLAGS, struct.pack("=I", reply)),
    )


def _tuple(kind: int, addresses: bytes, number: bytes, ports: bytes) -> bytes:
    parts = [nested(CTA_TUPLE_IP, addresses)] if addresses else []
    return nested(kind, *parts, nested(CTA_TUPLE_PROTO, number, ports))


def is_named(query: Query, entry: Entry) -> bool:
    """Whether an entry shown for `ATTEMPTS` is one: kernels before 5.15 do not filter by status. Others are theirs."""
    if query != ATTEMPTS:
        return True
    status = int.from_bytes(parse(entry.attributes).get(CTA_STATUS, b"\xff"), "big")
    return not status & _ANSWERED_OR_TRANSLATED


def deletion(entry: Entry, sequence: int) -> bytes | None:
    """The message that ends a flow; None when the entry is in a zone, and so no work of our rules."""
    found = parse(entry.attributes)
    if CTA_ZONE in found or CTA_ID not in found or CTA_TUPLE_ZONE in parse(found[CTA_TUPLE_ORIG]):
        return None
    payload = nested(CTA_TUPLE_REPLY, found[CTA_TUPLE_REPLY]) + attribute(CTA_ID, found[CTA_ID])
    return _message(IPCTNL_MSG_CT_DELETE, NLM_F_REQUEST, entry.flow.family, sequence, payload)


def _message(kind: int, flags: int, family: int, sequence: int, payload: bytes) -> bytes:
    kind |= NFNL_SUBSYS_CTNETLINK << 8
    head = _HEADER.pack(_HEAD_BYTES + len(payload), kind, flags, sequence, 0)
    return head + _NFGEN.pack(_NFPROTO[family], 0, 0) + payload


def read_dump(datagram: bytes, sequence: int) -> Reply:
    """The entries of one datagram that answer request `sequence`; ValueError when its lengths contradict it."""
    entries: list[Entry] = []
    interrupted = False
    for offset, length, kind, flags in _messages(datagram, sequence):
        interrupted = interrupted or bool(flags & NLM_F_DUMP_INTR)
        if kind in (NLMSG_ERROR, NLMSG_DONE):
            body = datagram[offset + 16 : offset + 20]
            code = -int(struct.unpack("=i", body)[0]) if len(body) == 4 else 0
            return Reply(entries, is_last=True, error=code, is_interrupted=interrupted)
        flow = _flow(datagram, offset, length)
        if flow is not None:
            entries.append(Entry(flow, datagram[offset + _HEAD_BYTES : offset + length]))
    return Reply(entries, is_interrupted=interrupted)


def count_errors(datagram: bytes) -> int:
    """How many of the messages sent were refused."""
    return sum(
        kind == NLMSG_ERROR and datagram[offset + 16 : offset + 20] != b"\0\0\0\0"
        for offset, _, kind, _ in _messages(datagram)
    )


def _messages(datagram: bytes, wanted: int | None = None) -> Iterator[tuple[int, int, int, int]]:
    """Offset, length, type and flags of each message."""
    offset = 0
    while offset + 16 <= len(datagram):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(datagram, offset)
        if length < 16 or offset + length > len(datagram):
            raise ValueError(f"netlink message at byte {offset} claims {length} of {len(datagram)} bytes")
        if wanted in (None, sequence):
            yield offset, length, kind, flags
        offset += (length + 3) & ~3


def _flow(datagram: bytes, offset: int, length: int) -> Flow | None:
    """The flow of one entry; None for protocols without ports.

    Nearly all entries have the kernel's usual layout, and one call takes them apart; a million of them matter.
    """
    family, start = _FAMILY.get(datagram[offset + 16], 0), offset + _HEAD_BYTES
    usual = _USUAL.get(family)
    if usual is None:
        return None
    if datagram.startswith(usual.original, start) and datagram.startswith(usual.reply, start + usual.pair.size // 2):
        _, address, protocol, _, port, answering, _, _, answering_port, _ = usual.pair.unpack_from(datagram, start)
        return Flow(family, protocol, address, port, packed_endpoint(answering, answering_port))
    return _flow_of_attributes(family, datagram[start : offset + length])


def _flow_of_attributes(family: int, attributes: bytes) -> Flow | None:
    try:
        found = parse(attributes)
        to, protocol, port = _end(found[CTA_TUPLE_ORIG], _DESTINATION[family], CTA_PROTO_DST_PORT)
        answering, _, answering_port = _end(found[CTA_TUPLE_REPLY], _SOURCE[family], CTA_PROTO_SRC_PORT)
    except KeyError:
        return None
    return Flow(family, protocol, to, int.from_bytes(port, "big"), answering + answering_port)


def _end(tuple_: bytes, of_address: int, of_port: int) -> tuple[bytes, int, bytes]:
    """Address, protocol and port of one end of a tuple."""
    parts = parse(tuple_)
    addresses, ports = parse(parts[CTA_TUPLE_IP]), parse(parts[CTA_TUPLE_PROTO])
    return addresses[of_address], ports[CTA_PROTO_NUM][0], ports[of_port]
