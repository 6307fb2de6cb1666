# SPDX-License-Identifier: Apache-2.0
"""Tells when the kernel of a node committed something to nf_tables, from inside its network namespace.

    python -m pointsman_lab.bench.kernel_watch SOCKET events|generation

Connects to the Unix socket SOCKET and sends one native double for each commit: its CLOCK_MONOTONIC instant. `events`
listens to the kernel's own notifications, exact to some microseconds, for single changes. `generation` polls the
generation number every 2 ms, which costs the committing side nothing however much it commits. Ends when the socket is
closed. Independent of all code under measurement: standard library only.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import Final

_NETLINK_NETFILTER: Final = 12
_SO_RCVBUFFORCE: Final = 33
_SOL_NETLINK: Final = 270
_ADD_MEMBERSHIP: Final = 1
_GROUP_NFTABLES: Final = 7
_NEWGEN: Final = (10 << 8) | 15
_GETGEN: Final = (10 << 8) | 16
_NLM_F_REQUEST: Final = 1
_POLL_SECONDS: Final = 0.002
_BUFFER_BYTES: Final = 1 << 22
_HEADER: Final = struct.Struct("=IHHII")
_DOUBLE: Final = struct.Struct("=d")


def main() -> int:
    """Run until the other end of the socket is closed."""
    path, mode = sys.argv[1:3]
    with socket.socket(socket.AF_UNIX) as out, _netfilter_socket() as kernel:
        if mode == "events":
            kernel.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_NFTABLES)
        out.connect(path)
        out.sendall(_DOUBLE.pack(0.0))  # says: listening
        instants = _events(kernel, out) if mode == "events" else _generations(kernel, out)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for instant in instants:
                out.sendall(_DOUBLE.pack(instant))
    return 0


def _netfilter_socket() -> socket.socket:
    kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    kernel.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    kernel.bind((0, 0))
    return kernel


def _events(kernel: socket.socket, out: socket.socket) -> Iterator[float]:
    while True:
        readable, _, _ = select.select([kernel, out], [], [])
        if out in readable:
            return
        try:
            data = kernel.recv(_BUFFER_BYTES)
        except OSError:  # ENOBUFS: notifications were lost, later ones follow
            continue
        if _holds_commit(data):
            yield time.monotonic()


def _holds_commit(data: bytes) -> bool:
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, offset)
        if kind == _NEWGEN:
            return True
        offset += max((length + 3) & ~3, _HEADER.size)
    return False


def _generations(kernel: socket.socket, out: socket.socket) -> Iterator[float]:
    request = _HEADER.pack(_HEADER.size + 4, _GETGEN, _NLM_F_REQUEST, 1, 0) + b"\x00" * 4
    last = b""
    while not select.select([out], [], [], _POLL_SECONDS)[0]:
        kernel.send(request)
        # Header, nfgenmsg, then NFTA_GEN_ID as the first attribute: four bytes of length and type, four of value.
        generation = kernel.recv(4096)[20:28]
        if last and generation != last:
            yield time.monotonic()
        last = generation


if __name__ == "__main__":
    sys.exit(main())
