# SPDX-License-Identifier: Apache-2.0
"""Takes nf_tables tables away as `nft delete table` and `nft flush ruleset` do, and says exactly when.

    python -m pointsman_lab.bench.remove_table [FAMILY TABLE]

Sends the one batch that `nft` sends: a table by name, or all of them. Writes the CLOCK_MONOTONIC instant before it was
sent; the kernel announces such a deletion only after it has taken effect and everything in it was freed, milliseconds
later with many elements. Independent of all code under measurement: standard library only.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from typing import Final

_NETLINK_NETFILTER: Final = 12
_BATCH_BEGIN: Final = 0x10
_BATCH_END: Final = 0x11
_NFTABLES: Final = 10
_DELETE_TABLE: Final = (_NFTABLES << 8) | 2
_REQUEST: Final = 1
_ACK: Final = 4
_TABLE_NAME: Final = 1
_FAMILIES: Final = {"ip": 2, "ip6": 10}


def main() -> int:
    """Delete and report."""
    family, name = (_FAMILIES[sys.argv[1]], sys.argv[2]) if len(sys.argv) > 1 else (0, "")
    batch = (
        _message(_BATCH_BEGIN, _REQUEST, struct.pack("!BBH", 0, 0, _NFTABLES))
        + _message(_DELETE_TABLE, _REQUEST | _ACK, struct.pack("!BBH", family, 0, 0) + _name(name))
        + _message(_BATCH_END, _REQUEST, struct.pack("!BBH", 0, 0, _NFTABLES))
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as kernel:
        kernel.bind((0, 0))
        sent = time.monotonic()
        kernel.send(batch)
        (error,) = struct.unpack_from("=i", kernel.recv(65536), 16)
    if error:
        sys.stderr.write(f"the kernel refused: {os.strerror(-error)}\n")
        return 1
    sys.stdout.write(f"{sent!r}\n")
    return 0


def _message(kind: int, flags: int, payload: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(payload), kind, flags, 0, 0) + payload


def _name(name: str) -> bytes:
    if not name:
        return b""
    value = name.encode() + b"\0"
    return struct.pack("=HH", 4 + len(value), _TABLE_NAME) + value + bytes(-len(value) % 4)


if __name__ == "__main__":
    sys.exit(main())
