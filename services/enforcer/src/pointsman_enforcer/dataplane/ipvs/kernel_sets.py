# SPDX-License-Identifier: Apache-2.0
"""Asks the kernel about sets without listing them: how many elements each has, and whether one is in it.

That is what ipset's netlink interface can do by key; the mark that an element carries it tells only with all elements.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Sequence
from typing import Final

from pointsman_enforcer.dataplane.base import KernelError
from pointsman_enforcer.dataplane.ipvs.genetlink.message import answers
from pointsman_enforcer.dataplane.nftables.attributes import attribute, name_of, nested, parse
from pointsman_model.names import parse_address

_NETLINK_NETFILTER: Final = 12
_SUBSYSTEM: Final = 6 << 8
_CMD_LIST: Final = 7
_CMD_TEST: Final = 11
_PROTOCOL: Final = 6
"""Of ipset's messages: the oldest that all kernels in use understand."""
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_ATTR_PROTOCOL, _ATTR_SETNAME, _ATTR_FLAGS, _ATTR_DATA = 1, 2, 6, 7
_LIST_HEADER: Final = 1 << 2
_IP, _CIDR, _PORT, _PROTO, _IP2, _CIDR2 = 1, 3, 4, 7, 20, 21
_ELEMENTS: Final = 24
_IPADDR: Final = {4: 1, 16: 2}
_NET_ORDER: Final = 0x4000
_NOT_IN_SET: Final = 4103
_HEADER: Final = struct.Struct("=IHHII")
_NFGEN: Final = bytes((2, 0, 0, 0))
_DATAGRAM_BYTES: Final = 1 << 17
_PROTOCOLS: Final = {"tcp": 6, "udp": 17, "sctp": 132}
_TIMEOUT_SECONDS: Final = 5.0


class KernelSets:
    """A socket in the network namespace of the thread that makes it. For one caller at a time."""

    def __init__(self) -> None:
        """OSError when we may not ask."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        self._socket.settimeout(_TIMEOUT_SECONDS)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def sizes(self) -> dict[str, int]:
        """How many elements each set has, also those of others; OSError when the kernel does not say."""
        body = _NFGEN + attribute(_ATTR_PROTOCOL, bytes((_PROTOCOL,)))
        body += attribute(_ATTR_FLAGS | _NET_ORDER, _LIST_HEADER.to_bytes(4, "big"))
        self._send([(_CMD_LIST, _DUMP, body)])
        found: dict[str, int] = {}
        while True:
            for kind, _, sequence, data in answers(self._socket.recv(_DATAGRAM_BYTES)):
                if sequence != self._sequence:
                    continue
                if kind in (_ERROR, _DONE):
                    _check(data)
                    return found
                said = parse(data[4:])
                if _ATTR_DATA in said:
                    elements = parse(said[_ATTR_DATA]).get(_ELEMENTS, bytes(4))
                    found[name_of(said[_ATTR_SETNAME])] = int.from_bytes(elements, "big")

    def has(self, elements: Sequence[tuple[str, str]]) -> list[bool]:
        """Whether each (set, element) is in the kernel; false too where there is no such set. KernelError, OSError."""
        if not elements:
            return []
        first = self._sequence + 1
        self._send([(_CMD_TEST, _ACK, _test(name, element)) for name, element in elements])
        found: dict[int, bool] = {}
        while len(found) < len(elements):
            for kind, _, sequence, data in answers(self._socket.recv(_DATAGRAM_BYTES)):
                if kind == _ERROR and sequence >= first:
                    code = -int(struct.unpack_from("=i", data)[0])
                    if code not in (0, errno.ENOENT, _NOT_IN_SET):
                        raise KernelError(f"asking whether {elements[sequence - first]} is there: error {code}")
                    found[sequence] = code == 0
        return [found[first + index] for index in range(len(elements))]

    def _send(self, requests: Sequence[tuple[int, int, bytes]]) -> None:
        parts = []
        for command, flags, body in requests:
            self._sequence += 1
            head = _HEADER.pack(_HEADER.size + len(body), _SUBSYSTEM | command, _REQUEST | flags, self._sequence, 0)
            parts.append(head + body)
        self._socket.send(b"".join(parts))


def _test(name: str, element: str) -> bytes:
    """The body of the question whether an element, as ipset prints it, is in a set."""
    data = b""
    for index, part in enumerate(element.split(",")):
        word, colon, port = part.partition(":")
        if colon and word in _PROTOCOLS:
            data += attribute(_PORT | _NET_ORDER, int(port).to_bytes(2, "big"))
            data += attribute(_PROTO, bytes((_PROTOCOLS[word],)))
            continue
        data += _address(part, (_IP, _CIDR) if index == 0 else (_IP2, _CIDR2))
    body = _NFGEN + attribute(_ATTR_PROTOCOL, bytes((_PROTOCOL,)))
    return body + attribute(_ATTR_SETNAME, name.encode() + b"\0") + nested(_ATTR_DATA, data)


def _address(text: str, kinds: tuple[int, int]) -> bytes:
    if "/" in text:
        network = ipaddress.ip_network(text)
        address, bits = network.network_address.packed, attribute(kinds[1], bytes((network.prefixlen,)))
    else:
        address, bits = parse_address(text), b""
    return nested(kinds[0], attribute(_IPADDR[len(address)] | _NET_ORDER, address)) + bits


def _check(data: bytes) -> None:
    code = -int(struct.unpack_from("=i", data)[0]) if len(data) >= 4 else 0
    if code not in (0, errno.ENOENT):
        raise OSError(code, "asking for the sizes of sets")
