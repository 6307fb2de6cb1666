# SPDX-License-Identifier: Apache-2.0
"""Reads the addresses of an ipset and when each is forgotten, by netlink: a program for each set would cost too much.

Only sets of type hash:ip with timeouts and no other extension, such as we make for the clients of endpoints, and only
reading: what is written goes through the tool, like everything else.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import Final

from pointsman_enforcer.dataplane.nftables import uapi
from pointsman_enforcer.dataplane.nftables.attributes import attribute, parse, text
from pointsman_model.names import Family

_LIST: Final = 6 << 8 | 7
"""NFNL_SUBSYS_IPSET and IPSET_CMD_LIST."""
_PROTOCOL_VERSION: Final = b"\x06"
_ATTR_PROTOCOL, _ATTR_SETNAME, _ATTR_ADT = 1, 2, 8
_REQUEST: Final = struct.Struct("=IHHIIBBH")
_HEADER: Final = struct.Struct("=IHHII")
_GENERIC_BYTES: Final = 4
_ERROR: Final = struct.Struct("=i")
_RECEIVE_BYTES: Final = 256 * 1024
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_ELEMENTS: Final = {family: struct.Struct(f">4x4x4x{family.address_bytes}s4xI") for family in Family}
"""DATA { IP { address } TIMEOUT }: seconds left."""


class IpsetReader:
    """A socket to ipset; it belongs to the network namespace of the thread that makes it. One call at a time."""

    def __init__(self) -> None:
        """OSError when we may not ask."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, uapi.NETLINK_NETFILTER)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def addresses(self, name: str, family: Family) -> list[tuple[bytes, int]]:
        """Each address and the seconds that it has left; empty when there is no such set.

        Raises:
            OSError: refused.
            ValueError: it is another kind of set.
        """
        self._sequence += 1
        payload = attribute(_ATTR_PROTOCOL, _PROTOCOL_VERSION) + text(_ATTR_SETNAME, name)
        flags = uapi.NLM_F_REQUEST | uapi.NLM_F_DUMP
        length = _REQUEST.size + len(payload)
        self._socket.send(_REQUEST.pack(length, _LIST, flags, self._sequence, 0, socket.AF_INET, 0, 0) + payload)
        return [found for payload in self._replies(name) for found in _elements(payload, family)]

    def _replies(self, name: str) -> Iterator[bytes]:
        while True:
            data, offset = self._socket.recv(_RECEIVE_BYTES), 0
            while offset < len(data):
                length, kind, _, sequence, _ = _HEADER.unpack_from(data, offset)
                body = data[offset + _HEADER.size : offset + length]
                offset += (length + 3) & ~3
                if sequence != self._sequence:
                    continue
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    number = -_ERROR.unpack_from(body)[0]
                    if number == errno.ENOENT:
                        return
                    raise OSError(number, f"reading set {name}")
                yield body[_GENERIC_BYTES:]


def _elements(payload: bytes, family: Family) -> Iterator[tuple[bytes, int]]:
    listed = parse(payload).get(_ATTR_ADT, b"")
    record = _ELEMENTS[family]
    if len(listed) % record.size or (listed and struct.unpack_from("=H", listed)[0] != record.size):
        raise ValueError("a set with our name does not hold addresses with timeouts and nothing else")
    yield from record.iter_unpack(listed)
