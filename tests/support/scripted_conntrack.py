# SPDX-License-Identifier: Apache-2.0
"""The kernel's side of ctnetlink, played by the other end of a socket: dumps that end as a script says."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence

from pointsman_enforcer.dataplane.conntrack import ctnetlink


def message(kind: int, sequence: int, payload: bytes, flags: int = 0) -> bytes:
    data = struct.pack("=IHHII", 16 + len(payload), kind, flags, sequence, 0) + payload
    return data + b"\0" * (-len(data) % 4)


def done(sequence: int, code: int = 0, flags: int = 0) -> bytes:
    return message(ctnetlink.NLMSG_DONE, sequence, struct.pack("=i", -code), flags)


def entry(sequence: int, number: int, flags: int = 0) -> bytes:
    """An untranslated UDP flow from port `number`."""

    def attribute(kind: int, value: bytes) -> bytes:
        return struct.pack("=HH", len(value) + 4, kind) + value + b"\0" * (-len(value) % 4)

    def side(kind: int, source: bytes, to: bytes, source_port: int, port: int) -> bytes:
        ports = (
            attribute(1, b"\x11") + attribute(2, struct.pack(">H", source_port)) + attribute(3, struct.pack(">H", port))
        )
        addresses = attribute(1, source) + attribute(2, to)
        return attribute(kind | 0x8000, attribute(0x8001, addresses) + attribute(0x8002, ports))

    here, there = bytes((10, 0, 0, 1)), bytes((8, 8, 8, 8))
    payload = side(1, here, there, number, 53) + side(2, there, here, 53, number) + attribute(12, b"id:4")
    return message(1 << 8, sequence, b"\x02\0\0\0" + payload, flags)


Script = Sequence[Callable[[int], bytes]]


INTERRUPTED: Script = [
    lambda sequence: entry(sequence, 1),
    lambda sequence: entry(sequence, 2, ctnetlink.NLM_F_DUMP_INTR),
    lambda sequence: done(sequence, flags=ctnetlink.NLM_F_DUMP_INTR),
]
WHOLE: Script = [lambda sequence: entry(sequence, 3) + entry(sequence, 4), done]
EINTR: Script = [lambda sequence: entry(sequence, 1), lambda sequence: done(sequence, errno.EINTR)]
"""Three ways a dump may go: rearranged under the reader, whole, and broken off."""


class ScriptedKernel:
    """Answers each dump with the datagrams of a script, and keeps the deletions."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = list(scripts)
        self.mine: list[socket.socket] = []
        self.theirs: list[socket.socket] = []
        self.deleted: list[bytes] = []

    def open(self, protocol: int) -> socket.socket:
        theirs, mine = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.mine.append(mine)
        self.theirs.append(theirs)
        return theirs

    def serve(self) -> None:
        for script in self.scripts:
            request = self.mine[0].recv(4096)
            sequence = struct.unpack_from("=I", request, 8)[0]
            for part in script:
                self.mine[0].send(part(sequence))

    def deletions(self) -> int:
        found = 0
        self.mine[1].setblocking(False)
        while True:
            try:
                data = self.mine[1].recv(1 << 16)
            except BlockingIOError:
                return found
            while data:
                length = struct.unpack_from("=I", data)[0]
                found, data = found + 1, data[length + 3 & ~3 :]

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Answer within the block, from a thread."""
        thread = threading.Thread(target=self.serve)
        thread.start()
        try:
            yield
        finally:
            thread.join()

    def close(self) -> None:
        for each in self.mine:
            each.close()
