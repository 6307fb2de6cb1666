# SPDX-License-Identifier: Apache-2.0
"""Dumps of the connection table that end badly; the kernel is played by the other end of a socket."""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from pointsman_enforcer.core.stale_flows import Flow, Query
from pointsman_enforcer.dataplane.conntrack import ctnetlink, table
from pointsman_enforcer.dataplane.conntrack.table import ATTEMPTS_MAX, ConntrackTable, InterruptedDumpError

ALL_UDP = Query(4, 17)


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


class Kernel:
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


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[Kernel, ConntrackTable]]]:
    made: list[tuple[Kernel, ConntrackTable, threading.Thread]] = []

    def open_with(*scripts: Script) -> tuple[Kernel, ConntrackTable]:
        kernel = Kernel(*scripts)
        monkeypatch.setattr(table, "_open", kernel.open)
        found = ConntrackTable()
        thread = threading.Thread(target=kernel.serve)
        thread.start()
        made.append((kernel, found, thread))
        return kernel, found

    yield open_with
    for kernel, found, thread in made:
        thread.join()
        found.close()
        for each in kernel.mine:
            each.close()


def everything(_: Flow) -> bool:
    return True


INTERRUPTED: Script = [
    lambda sequence: entry(sequence, 1),
    lambda sequence: entry(sequence, 2, ctnetlink.NLM_F_DUMP_INTR),
    lambda sequence: done(sequence, flags=ctnetlink.NLM_F_DUMP_INTR),
]
WHOLE: Script = [lambda sequence: entry(sequence, 3) + entry(sequence, 4), done]
EINTR: Script = [lambda sequence: entry(sequence, 1), lambda sequence: done(sequence, errno.EINTR)]


@pytest.mark.parametrize("first", [INTERRUPTED, EINTR])
def test_a_partial_dump_ends_what_was_seen_and_is_begun_again(
    opened: Callable[..., tuple[Kernel, ConntrackTable]], first: Script
) -> None:  # row 152
    kernel, made = opened(first, WHOLE)
    seen = sum(len(part(0)) > 20 for part in first)
    assert made.end_flows(ALL_UDP, everything) == seen + 2
    assert made.dumps == 2
    assert kernel.deletions() == made.deletions == seen + 2


def test_a_dump_that_is_always_partial_says_so_after_some_attempts(
    opened: Callable[..., tuple[Kernel, ConntrackTable]],
) -> None:
    kernel, made = opened(*[INTERRUPTED] * ATTEMPTS_MAX)
    with pytest.raises(InterruptedDumpError, match="rearranged"):
        made.end_flows(ALL_UDP, everything)
    assert kernel.deletions() == 2 * ATTEMPTS_MAX


def test_the_kernels_refusal_is_raised(opened: Callable[..., tuple[Kernel, ConntrackTable]]) -> None:
    refusal: Script = [
        lambda sequence: message(ctnetlink.NLMSG_ERROR, sequence, struct.pack("=i", -errno.EINVAL) + bytes(16))
    ]
    _, made = opened(refusal)
    with pytest.raises(OSError, match="Invalid argument") as caught:
        made.end_flows(ALL_UDP, everything)
    assert caught.value.errno == errno.EINVAL


def test_answers_to_an_earlier_question_are_passed_over(
    opened: Callable[..., tuple[Kernel, ConntrackTable]],
) -> None:
    _, made = opened([lambda sequence: entry(sequence - 1, 9) + done(sequence - 1), *WHOLE])
    assert made.end_flows(ALL_UDP, everything) == 2


def test_lengths_that_contradict_the_datagram_are_refused(
    opened: Callable[..., tuple[Kernel, ConntrackTable]],
) -> None:
    _, made = opened([lambda sequence: struct.pack("=IHHII", 64, 256, 0, sequence, 0)])
    with pytest.raises(OSError, match="claims 64 of 16 bytes"):
        made.end_flows(ALL_UDP, everything)
