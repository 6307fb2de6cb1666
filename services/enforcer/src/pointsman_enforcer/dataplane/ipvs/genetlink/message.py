# SPDX-License-Identifier: Apache-2.0
"""Messages of IPVS's generic netlink family. Pure: bytes in, bytes out.

Numbers are named as in <linux/ip_vs.h>. Unlike nf_tables, IPVS writes numbers in the machine's byte order, but for
ports and addresses. A message is made without sequence number and family id: both are known only when it is sent.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from typing import Final, NamedTuple

from pointsman_enforcer.dataplane.ipvs.genetlink.model import (
    Info,
    RealServer,
    RealServerId,
    ServiceFlags,
    Timeouts,
    VirtualServer,
    VirtualServerId,
)
from pointsman_enforcer.dataplane.nftables.attributes import attribute, name_of, nested, parse
from pointsman_model.names import Family, Protocol

GENL_ID_CTRL: Final = 16
CTRL_CMD_GETFAMILY: Final = 3
CTRL_ATTR_FAMILY_ID: Final = 1
CTRL_ATTR_FAMILY_NAME: Final = 2

IPVS_CMD_NEW_SERVICE: Final = 1
IPVS_CMD_SET_SERVICE: Final = 2
IPVS_CMD_DEL_SERVICE: Final = 3
IPVS_CMD_GET_SERVICE: Final = 4
IPVS_CMD_NEW_DEST: Final = 5
IPVS_CMD_SET_DEST: Final = 6
IPVS_CMD_DEL_DEST: Final = 7
IPVS_CMD_GET_DEST: Final = 8
IPVS_CMD_SET_CONFIG: Final = 12
IPVS_CMD_GET_CONFIG: Final = 13
IPVS_CMD_SET_INFO: Final = 14
IPVS_CMD_GET_INFO: Final = 15

IPVS_CMD_ATTR_SERVICE: Final = 1
IPVS_CMD_ATTR_DEST: Final = 2
_TIMEOUTS: Final = (4, 5, 6)
"""IPVS_CMD_ATTR_TIMEOUT_TCP, _TCP_FIN, _UDP."""
_SVC_AF, _SVC_PROTOCOL, _SVC_ADDR, _SVC_PORT, _SVC_FWMARK = 1, 2, 3, 4, 5
_SVC_SCHED_NAME, _SVC_FLAGS, _SVC_TIMEOUT, _SVC_NETMASK = 6, 7, 8, 9
_DEST_ADDR, _DEST_PORT, _DEST_FWD_METHOD, _DEST_WEIGHT = 1, 2, 3, 4
_DEST_U_THRESH, _DEST_L_THRESH, _DEST_ACTIVE, _DEST_INACT, _DEST_FAMILY = 5, 6, 7, 8, 11
_MASQ: Final = 0
_SETTABLE: Final = 0x1D
"""PERSISTENT, ONEPACKET and the three flags of schedulers."""
_ADDRESS_FIELD: Final = 16

_AF: Final = {Family.IPV4: 2, Family.IPV6: 10}
_FAMILY: Final = {2: Family.IPV4, 10: Family.IPV6}
_NUMBER: Final = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132}
_PROTOCOL: Final = {number: protocol for protocol, number in _NUMBER.items()}
_GENL: Final = struct.Struct("=BBH")
_U16: Final = struct.Struct("=H")
_U32: Final = struct.Struct("=I")


class Message(NamedTuple):
    """One request, and what it is about, for people."""

    command: int
    payload: bytes
    what: str = ""


def genl_payload(command: int, attributes: bytes) -> bytes:
    """The generic netlink header and what follows it."""
    return _GENL.pack(command, 1, 0) + attributes


def family_request() -> Message:
    """Ask for the number of the family IPVS; goes to GENL_ID_CTRL."""
    name = attribute(CTRL_ATTR_FAMILY_NAME, b"IPVS\0")
    return Message(CTRL_CMD_GETFAMILY, genl_payload(CTRL_CMD_GETFAMILY, name), "look up IPVS")


def read_family(payload: bytes) -> int:
    """The number in the answer to `family_request`."""
    return int(_U16.unpack(_attributes(payload)[CTRL_ATTR_FAMILY_ID])[0])


def new_service(server: VirtualServer) -> Message:
    """Add a virtual server; EEXIST when it is there."""
    return _service(IPVS_CMD_NEW_SERVICE, "add", server)


def set_service(server: VirtualServer) -> Message:
    """Change scheduler, flags and times of a virtual server; ESRCH when it is not there."""
    return _service(IPVS_CMD_SET_SERVICE, "change", server)


def delete_service(server: VirtualServerId) -> Message:
    """Remove a virtual server with its real servers; ESRCH when it is not there."""
    body = nested(IPVS_CMD_ATTR_SERVICE, _identity(server))
    return Message(IPVS_CMD_DEL_SERVICE, genl_payload(IPVS_CMD_DEL_SERVICE, body), f"remove {server}")


def new_dest(server: VirtualServerId, real: RealServer) -> Message:
    """Add a real server; EEXIST when it is there, ESRCH when the virtual server is not."""
    return _dest(IPVS_CMD_NEW_DEST, "add", server, real)


def set_dest(server: VirtualServerId, real: RealServer) -> Message:
    """Change weight and thresholds of a real server; ENOENT when it is not there."""
    return _dest(IPVS_CMD_SET_DEST, "change", server, real)


def delete_dest(server: VirtualServerId, real: RealServerId) -> Message:
    """Remove a real server; ENOENT when it is not there."""
    body = nested(IPVS_CMD_ATTR_SERVICE, _identity(server)) + nested(IPVS_CMD_ATTR_DEST, _dest_identity(real))
    what = f"remove {_place(real)} from {server}"
    return Message(IPVS_CMD_DEL_DEST, genl_payload(IPVS_CMD_DEL_DEST, body), what)


def get_services() -> Message:
    """List virtual servers; a dump."""
    return Message(IPVS_CMD_GET_SERVICE, genl_payload(IPVS_CMD_GET_SERVICE, b""), "list virtual servers")


def get_service(server: VirtualServerId) -> Message:
    """Ask for one virtual server; ESRCH when it is not there."""
    body = nested(IPVS_CMD_ATTR_SERVICE, _identity(server))
    return Message(IPVS_CMD_GET_SERVICE, genl_payload(IPVS_CMD_GET_SERVICE, body), f"read {server}")


def get_dests(server: VirtualServerId) -> Message:
    """List the real servers of a virtual server; a dump, empty when there is no such server."""
    body = nested(IPVS_CMD_ATTR_SERVICE, _identity(server))
    return Message(IPVS_CMD_GET_DEST, genl_payload(IPVS_CMD_GET_DEST, body), f"list real servers of {server}")


def set_timeouts(timeouts: Timeouts) -> Message:
    """Set the timeouts that are not 0. The kernel's message has all three; it takes 0 as `leave alone`, too."""
    body = b"".join(attribute(kind, _U32.pack(value)) for kind, value in zip(_TIMEOUTS, timeouts, strict=True))
    return Message(IPVS_CMD_SET_CONFIG, genl_payload(IPVS_CMD_SET_CONFIG, body), "set timeouts")


def get_timeouts() -> Message:
    """Ask for the timeouts."""
    return Message(IPVS_CMD_GET_CONFIG, genl_payload(IPVS_CMD_GET_CONFIG, b""), "read timeouts")


def get_info() -> Message:
    """Ask for version and table size."""
    return Message(IPVS_CMD_GET_INFO, genl_payload(IPVS_CMD_GET_INFO, b""), "read version")


def read_service(payload: bytes) -> VirtualServer | None:
    """The virtual server in an answer; None for protocols and families that are no business of ours."""
    found = parse(_attributes(payload)[IPVS_CMD_ATTR_SERVICE])
    family = _FAMILY.get(_number(found[_SVC_AF]))
    if family is None:
        return None
    if _SVC_FWMARK in found:
        identity = VirtualServerId(family, mark=_number(found[_SVC_FWMARK]))
    else:
        protocol = _PROTOCOL.get(_number(found[_SVC_PROTOCOL]))
        if protocol is None:
            return None
        address = found[_SVC_ADDR][: family.address_bytes]
        identity = VirtualServerId(family, 0, protocol, address, int.from_bytes(found[_SVC_PORT], "big"))
    flags = ServiceFlags(_number(found[_SVC_FLAGS][:4]) & _SETTABLE)
    is_persistent = ServiceFlags.PERSISTENT in flags
    bits = _prefix_bits(family, found[_SVC_NETMASK]) if is_persistent else None
    return VirtualServer(
        id=identity,
        scheduler=name_of(found[_SVC_SCHED_NAME]),
        flags=flags,
        timeout_seconds=_number(found[_SVC_TIMEOUT]) if is_persistent else 0,
        prefix_bits=None if bits == family.address_bits else bits,
    )


def read_dest(payload: bytes, family: Family) -> RealServer:
    """The real server in an answer; `family` is that of the virtual server, for kernels that do not say it."""
    found = parse(_attributes(payload)[IPVS_CMD_ATTR_DEST])
    mine = _FAMILY.get(_number(found[_DEST_FAMILY]), family) if _DEST_FAMILY in found else family
    place = RealServerId(found[_DEST_ADDR][: mine.address_bytes], int.from_bytes(found[_DEST_PORT], "big"))
    numbers = (_DEST_WEIGHT, _DEST_U_THRESH, _DEST_L_THRESH, _DEST_ACTIVE, _DEST_INACT)
    return RealServer(place, *(_number(found[kind]) for kind in numbers))


def read_timeouts(payload: bytes) -> Timeouts:
    """The timeouts in an answer."""
    found = _attributes(payload)
    return Timeouts(*(_number(found[kind]) for kind in _TIMEOUTS))


def read_info(payload: bytes) -> Info:
    """Version and table size in an answer."""
    found = _attributes(payload)
    version = _number(found[1])
    return Info((version >> 16 & 0xFF, version >> 8 & 0xFF, version & 0xFF), _number(found[2]))


def _service(command: int, verb: str, server: VirtualServer) -> Message:
    family = server.id.family
    bits = family.address_bits if server.prefix_bits is None else server.prefix_bits
    body = nested(
        IPVS_CMD_ATTR_SERVICE,
        _identity(server.id),
        attribute(_SVC_SCHED_NAME, server.scheduler.encode("ascii") + b"\0"),
        attribute(_SVC_FLAGS, struct.pack("=II", server.flags, _SETTABLE)),
        attribute(_SVC_TIMEOUT, _U32.pack(server.timeout_seconds)),
        attribute(_SVC_NETMASK, _netmask(family, bits)),
    )
    return Message(command, genl_payload(command, body), f"{verb} {server.id}")


def _dest(command: int, verb: str, server: VirtualServerId, real: RealServer) -> Message:
    body = nested(IPVS_CMD_ATTR_SERVICE, _identity(server)) + nested(
        IPVS_CMD_ATTR_DEST,
        _dest_identity(real.id),
        attribute(_DEST_FWD_METHOD, _U32.pack(_MASQ)),
        attribute(_DEST_WEIGHT, _U32.pack(real.weight)),
        attribute(_DEST_U_THRESH, _U32.pack(real.upper_threshold)),
        attribute(_DEST_L_THRESH, _U32.pack(real.lower_threshold)),
    )
    return Message(command, genl_payload(command, body), f"{verb} {_place(real.id)} at {server}")


def _identity(server: VirtualServerId) -> bytes:
    family = attribute(_SVC_AF, _U16.pack(_AF[server.family]))
    if server.protocol is None:
        return family + attribute(_SVC_FWMARK, _U32.pack(server.mark))
    return b"".join(
        (
            family,
            attribute(_SVC_PROTOCOL, _U16.pack(_NUMBER[server.protocol])),
            attribute(_SVC_ADDR, server.address.ljust(_ADDRESS_FIELD, b"\0")),
            attribute(_SVC_PORT, server.port.to_bytes(2, "big")),
        )
    )


def _dest_identity(real: RealServerId) -> bytes:
    family = Family.IPV4 if len(real.address) == Family.IPV4.address_bytes else Family.IPV6
    return b"".join(
        (
            attribute(_DEST_FAMILY, _U16.pack(_AF[family])),
            attribute(_DEST_ADDR, real.address.ljust(_ADDRESS_FIELD, b"\0")),
            attribute(_DEST_PORT, real.port.to_bytes(2, "big")),
        )
    )


def _place(real: RealServerId) -> str:
    return str(VirtualServerId(_family_of(real.address), 0, Protocol.TCP, real.address, real.port)).partition(" ")[2]


def _family_of(address: bytes) -> Family:
    return Family.IPV4 if len(address) == Family.IPV4.address_bytes else Family.IPV6


def _netmask(family: Family, bits: int) -> bytes:
    """IPv4 has a mask in network byte order here, IPv6 a number of bits."""
    if family is Family.IPV6:
        return _U32.pack(bits)
    return ((0xFFFFFFFF << (32 - bits)) & 0xFFFFFFFF).to_bytes(4, "big")


def _prefix_bits(family: Family, value: bytes) -> int:
    if family is Family.IPV6:
        return _number(value)
    return int.from_bytes(value, "big").bit_count()


def _attributes(payload: bytes) -> dict[int, bytes]:
    return parse(payload[_GENL.size :])


def _number(value: bytes) -> int:
    return int.from_bytes(value, sys.byteorder)


def answers(datagram: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, sequence number and body of each netlink message; ValueError when a length contradicts the data."""
    offset = 0
    while offset + 16 <= len(datagram):
        length, kind, flags, sequence, _ = struct.unpack_from("=IHHII", datagram, offset)
        if length < 16 or offset + length > len(datagram):
            raise ValueError(f"netlink message at byte {offset} claims {length} of {len(datagram)} bytes")
        yield kind, flags, sequence, datagram[offset + 16 : offset + length]
        offset += (length + 3) & ~3
