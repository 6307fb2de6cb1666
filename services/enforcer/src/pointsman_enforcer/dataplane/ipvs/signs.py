# SPDX-License-Identifier: Apache-2.0
"""Cheap signs that somebody else changed something: one or two system calls each, whatever the number of services.

IPVS and ipset announce nothing, and legacy tables neither. But IPVS counts its virtual servers, a set its elements,
legacy tables their rules and bytes; nf_tables numbers its commits; and asking the way of a marked packet shows whether
rule and route are there. What no sign shows (a real server, the mark of an element) is for the slow look.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from typing import Final, NamedTuple

from pointsman_enforcer.dataplane.ipvs.genetlink.message import answers
from pointsman_enforcer.dataplane.ipvs.kernel_sets import KernelSets
from pointsman_enforcer.dataplane.ipvs.layout import TAKEN
from pointsman_enforcer.dataplane.nftables.attributes import attribute
from pointsman_enforcer.dataplane.xtables.text import IPVS_SET_PREFIX, TABLES
from pointsman_enforcer.dataplane.xtables.tools import Variant
from pointsman_model.names import Family

_GET_TABLE_INFO: Final = 64
"""IPT_SO_GET_INFO and IP6T_SO_GET_INFO."""
_TABLE_INFO: Final = struct.Struct("=32s13I")
_GET_IPVS_INFO: Final = 64 + 1024 + 64 + 1
"""IP_VS_SO_GET_INFO."""
_IPVS_INFO: Final = struct.Struct("=III")
_LEVELS: Final = {Family.IPV4: socket.IPPROTO_IP, Family.IPV6: socket.IPPROTO_IPV6}
_AF: Final = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
_SOMEBODY: Final = {Family.IPV4: bytes((192, 0, 2, 1)), Family.IPV6: bytes((0x20, 1, 0x0D, 0xB8)).ljust(16, b"\1")}
_NETFILTER: Final = 12
_NFT_MSG_GETGEN: Final = 10 << 8 | 16
_RTM_GETROUTE: Final = 26
_RTA_DST, _RTA_MARK = 1, 16
_RTN_LOCAL: Final = 2
_HEADER: Final = struct.Struct("=IHHII")
_REQUEST: Final = 0x1
_ERROR: Final = 2
_SECONDS_MAX: Final = 5.0


class Signs(NamedTuple):
    """What was seen; compared with what was seen before."""

    rules: bytes
    sets: dict[str, int]
    """Elements of each of our sets."""
    servers: int
    """How many virtual servers there are for IPv4, also of others."""
    is_routed: bool
    """Whether marked packets come to this host, in both families."""


class SignReader:
    """Sockets in the network namespace of the thread that makes it. Blocking; for one caller at a time."""

    def __init__(self, variant: Variant) -> None:
        """OSError when we may not ask."""
        self._variant = variant
        self._raw = {
            family: socket.socket(of, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW)
            for family, of in _AF.items()
        }
        self._netfilter, self._routes = _netlink(_NETFILTER), _netlink(0)
        self._sets = KernelSets()
        self._libc = ctypes.CDLL(None, use_errno=True)

    def read(self) -> Signs:
        """All of them; OSError when the kernel does not answer."""
        sizes = {name: size for name, size in self._sets.sizes().items() if name.startswith(IPVS_SET_PREFIX)}
        return Signs(self.rules(), sizes, self.servers(), all(self._is_routed(family) for family in Family))

    def rules(self) -> bytes:
        """See `Signs`."""
        return self._tables() if self._variant is Variant.LEGACY else self._generation()

    def servers(self) -> int:
        """See `Signs`."""
        info = self._raw[Family.IPV4].getsockopt(socket.IPPROTO_IP, _GET_IPVS_INFO, _IPVS_INFO.size)
        return int(_IPVS_INFO.unpack(info)[2])

    def close(self) -> None:
        """Close the sockets."""
        for each in (*self._raw.values(), self._netfilter, self._routes):
            each.close()
        self._sets.close()

    def _tables(self) -> bytes:
        """Hooks, number of entries and bytes of each legacy table; nothing for one that is not there."""
        return b"".join(self._table(family, table) for family in Family for table in TABLES)

    def _table(self, family: Family, table: str) -> bytes:
        """The request is a buffer with the table's name, which Python's own getsockopt cannot hand in."""
        buffer = ctypes.create_string_buffer(_TABLE_INFO.pack(table.encode(), *([0] * 13)), _TABLE_INFO.size)
        length = ctypes.c_uint32(_TABLE_INFO.size)
        number = self._raw[family].fileno()
        if self._libc.getsockopt(number, _LEVELS[family], _GET_TABLE_INFO, buffer, ctypes.byref(length)) == 0:
            return buffer.raw
        code = ctypes.get_errno()
        if code not in (errno.ENOENT, errno.ENOPROTOOPT):
            raise OSError(code, f"asking legacy table {table}")
        return b""

    def _generation(self) -> bytes:
        """The number of the newest commit of nf_tables."""
        return _ask(self._netfilter, _NFT_MSG_GETGEN, bytes(4))[4:12]

    def _is_routed(self, family: Family) -> bool:
        address = _SOMEBODY[family]
        body = struct.pack("=BBBBBBBBI", _AF[family], len(address) * 8, 0, 0, 0, 0, 0, 0, 0)
        body += attribute(_RTA_DST, address) + attribute(_RTA_MARK, struct.pack("=I", TAKEN))
        try:
            return _ask(self._routes, _RTM_GETROUTE, body)[7] == _RTN_LOCAL
        except OSError as error:
            if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EAFNOSUPPORT, errno.EACCES, errno.EINVAL):
                return False
            raise


def _netlink(protocol: int) -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    opened.settimeout(_SECONDS_MAX)
    opened.bind((0, 0))
    return opened


def _ask(opened: socket.socket, kind: int, body: bytes) -> bytes:
    """The body of the answer to one request; OSError with what the kernel said."""
    opened.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST, 1, 0) + body)
    for said, _, _, data in answers(opened.recv(1 << 16)):
        if said == _ERROR:
            code = -int(struct.unpack_from("=i", data)[0])
            raise OSError(code, f"netlink message {kind}")
        return data
    raise OSError(errno.EBADMSG, f"netlink message {kind}")
