# SPDX-License-Identifier: Apache-2.0
"""What a rendering is made of, the marks that lead to virtual servers, and the names of sets.

A rendering is a sequence of records (kind, family, key, value). A mark is 32 bits: that IPVS takes the packet, that it
is masqueraded, and the number of a virtual server; number 0 is for virtual servers known by address and port.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Final, NamedTuple

from pointsman_enforcer.dataplane.ipvs.genetlink.model import (
    RealServer,
    RealServerId,
    ServiceFlags,
    VirtualServer,
    VirtualServerId,
)
from pointsman_enforcer.dataplane.xtables.text import IPVS_SET_PREFIX
from pointsman_model.names import Family, Protocol

TAKEN: Final = 0x80000000
"""IPVS takes the packet: it is routed to this host, whatever its destination. In the connection's mark, too."""
MASQUERADE: Final = 0x40000000
NUMBERS: Final = MASQUERADE - 1
REJECT_MARK: Final = 0x706D0001
DROP_MARK: Final = 0x706D0002
PROBE_MARK: Final = 0x706D0003
"""No packet ever has it: of the virtual server by which the kernel is asked for a scheduler."""
SENT_MARK: Final = 0x706D0004
"""IPVS has sent it on; one more if it is to be masqueraded."""

ROLES: Final = (
    *("vips", "limited", "allowed", "hairpin", "nodes", "cidrs"),
    *("others", "pod", "host", "ports-others", "ports-pod", "ports-host"),
)
"""Of sets."""
_HEAD: Final = struct.Struct(">BBHH")
_SERVER: Final = struct.Struct(">IBH")
_TRAITS: Final = struct.Struct(">BII")
_WEIGHT: Final = struct.Struct(">I")


class Kind(IntEnum):
    """Of a record; the order is that in which a change makes them."""

    SERVER = 1
    REAL = 2
    MEMBER = 3
    """An element of a set that has one owner: key is set, space, element; value its options."""
    SHARED = 4
    """The same of a set whose elements several services may want."""


class Id(NamedTuple):
    """What a record is about."""

    kind: Kind
    family: Family
    key: bytes


Records = dict[Id, bytes]


def pack(records: Mapping[Id, bytes]) -> bytes:
    """The rendering that has exactly these records."""
    parts = []
    for record in sorted(records):
        value = records[record]
        parts += [_HEAD.pack(record.kind, record.family, len(record.key), len(value)), record.key, value]
    return b"".join(parts)


def unpack(rendering: bytes) -> Records:
    """The records of a rendering."""
    return dict(records(rendering))


def records(rendering: bytes) -> Iterator[tuple[Id, bytes]]:
    """The same, one by one, in the order in which a change makes them."""
    at = 0
    while at < len(rendering):
        kind, family, key_bytes, value_bytes = _HEAD.unpack_from(rendering, at)
        at += _HEAD.size
        key = rendering[at : at + key_bytes]
        at += key_bytes
        yield Id(Kind(kind), Family(family), key), rendering[at : at + value_bytes]
        at += value_bytes


def server_record(server: VirtualServer, protocol: Protocol) -> tuple[Id, bytes]:
    """A virtual server; `protocol` is what its port of a Service speaks."""
    value = _TRAITS.pack(protocol, server.flags, server.timeout_seconds) + server.scheduler.encode()
    return Id(Kind.SERVER, server.id.family, _server_key(server.id)), value


def server_of(record: Id, value: bytes) -> tuple[VirtualServer, Protocol]:
    """What `server_record` was given."""
    protocol, flags, seconds = _TRAITS.unpack_from(value)
    server = VirtualServer(
        id=_server_id(record.family, record.key),
        scheduler=value[_TRAITS.size :].decode(),
        flags=ServiceFlags(flags),
        timeout_seconds=seconds,
    )
    return server, Protocol(protocol)


def real_record(server: VirtualServerId, real: RealServer) -> tuple[Id, bytes]:
    """A real server of a virtual server."""
    key = _server_key(server)
    place = real.id.address + real.id.port.to_bytes(2)
    return Id(Kind.REAL, server.family, bytes((len(key),)) + key + place), _WEIGHT.pack(real.weight)


def real_of(record: Id, value: bytes) -> tuple[VirtualServerId, RealServer]:
    """What `real_record` was given."""
    end = 1 + record.key[0]
    place = RealServerId(record.key[end:-2], int.from_bytes(record.key[-2:]))
    return _server_id(record.family, record.key[1:end]), RealServer(place, _WEIGHT.unpack(value)[0])


def set_name(role: str, family: Family) -> str:
    """For example `pointsman-ipvs-vips4`."""
    return f"{IPVS_SET_PREFIX}{role}{family.value}"


def number_of(family: Family, frontend: bytes, index: int, attempt: int) -> int:
    """The number of the virtual server for an endpoint set of the port that has this frontend first."""
    digest = hashlib.blake2b(frontend, digest_size=4, salt=struct.pack(">BHH", family, index, attempt)).digest()
    return (int.from_bytes(digest) & NUMBERS) or 1


def _server_key(server: VirtualServerId) -> bytes:
    return _SERVER.pack(server.mark, server.protocol or 0, server.port) + server.address


def _server_id(family: Family, key: bytes) -> VirtualServerId:
    mark, protocol, port = _SERVER.unpack_from(key)
    return VirtualServerId(family, mark, Protocol(protocol) if protocol else None, key[_SERVER.size :], port)
