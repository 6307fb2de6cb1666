# SPDX-License-Identifier: Apache-2.0
"""The socket to nf_tables: commits batches, reads answers, streams dumps.

Own code on the standard library, for three reasons: a library costs more memory than the rest of the enforcer, its
commits are fifteen times slower, and ours reads every answer. A batch is executed inside `sendmsg`: when that returns,
 all answers already wait in the receive queue, so reading them never blocks and needs no timeout.

The sockets belong for ever to the network namespace of the thread that made the object.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from pointsman_enforcer.dataplane.nftables import uapi
from pointsman_enforcer.dataplane.nftables.answers import Answer, read_answers, verdict_of
from pointsman_enforcer.dataplane.nftables.attributes import name_of, parse, text
from pointsman_enforcer.dataplane.nftables.elements import element_question, parse_elements, parse_timed
from pointsman_enforcer.dataplane.nftables.errors import DumpInterruptedError, NetlinkError
from pointsman_enforcer.dataplane.nftables.message import Batch, request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from pointsman_enforcer.dataplane.nftables.elements import Element, Timed
    from pointsman_enforcer.dataplane.nftables.message import Table
    from pointsman_enforcer.dataplane.nftables.sets import SetSpec

IN_LOOP_BYTES_MAX: Final = 32 * 1024
"""Batches up to this size (about 0.3 ms of kernel) are committed in the event loop; larger ones in a thread."""
BATCH_BYTES_MAX: Final = 256 * 1024 * 1024
_RECEIVE_BYTES: Final = 4 * 1024 * 1024
_DATAGRAM_BYTES: Final = 256 * 1024
_SEQUENCE_MAX: Final = 0x7FFF0000
_INTERRUPTED_SENDS_MAX: Final = 16


@dataclass(slots=True)
class Counters:
    """What went to the kernel since the start; the tests prove with it that a change costs the same at any size."""

    commits: int = 0
    failed_commits: int = 0
    messages: int = 0
    bytes: int = 0
    dumps: int = 0
    gets: int = 0
    """Single elements asked for."""


class NftSocket:
    """Access to nf_tables of one network namespace. Thread-safe; also a context manager."""

    def __init__(self) -> None:
        """Raises OSError when the process may not open such a socket (it needs CAP_NET_ADMIN)."""
        self.counters = Counters()
        self._writer = _open()
        self._reader = _open()
        self._looker = _open()
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._sequence = 0
        self._send_buffer_bytes = self._writer.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets; what was committed stays."""
        self._looker.close()
        self._writer.close()
        self._reader.close()

    async def commit(self, batch: Batch) -> None:
        """Apply a batch as one transaction; returns when the kernel has acknowledged it.

        Raises NetlinkError when it was refused. Cancelling does not undo a batch that is under way.
        """
        if batch.payload_bytes() <= IN_LOOP_BYTES_MAX and not self._write_lock.locked():
            self.commit_blocking(batch)
        else:
            await asyncio.to_thread(self.commit_blocking, batch)

    def commit_blocking(self, batch: Batch) -> None:
        """The same, in the calling thread. An empty batch is nothing to do."""
        if not batch.messages:
            return
        with self._write_lock:
            first = self._next_sequence(len(batch.messages) + 2)
            data = batch.encode(first)
            self._make_room(len(data))
            self._send(data)
            self.counters.messages += len(batch.messages)
            self.counters.bytes += len(data)
            answers, lost = self._drain()
            failure = verdict_of(answers, batch=batch, first=first, lost=lost)
            if failure is not None:
                self.counters.failed_commits += 1
                raise failure
            self.counters.commits += 1

    @property
    def port(self) -> int:
        """Netlink port that commits are sent from: notifications of our own commits carry it."""
        return int(self._writer.getsockname()[0])

    def generation(self) -> int:
        """The number of the ruleset's generation: every transaction of anybody in this namespace raises it."""
        with self._read_lock:
            replies = list(self._ask(uapi.NFT_MSG_GETGEN, 0, 0, b""))
        return int.from_bytes(parse(replies[0][1])[uapi.NFTA_GEN_ID], "big")

    def table_exists(self, table: Table) -> bool:
        """Whether the table is there."""
        name = table.name.encode("ascii") + b"\0"
        return any(
            parse(payload).get(uapi.NFTA_TABLE_NAME) == name
            for _, payload in self._dump(uapi.NFT_MSG_GETTABLE, table, b"")
        )

    def chain_names(self, table: Table) -> list[str]:
        """Names of the chains of our table, in the kernel's order; empty when there is no table."""
        return self._names(uapi.NFT_MSG_GETCHAIN, table, uapi.NFTA_CHAIN_TABLE, uapi.NFTA_CHAIN_NAME)

    def set_names(self, table: Table) -> list[str]:
        """Names of the sets and maps of our table; empty when there is no table."""
        return self._names(uapi.NFT_MSG_GETSET, table, uapi.NFTA_SET_TABLE, uapi.NFTA_SET_NAME)

    def dump_elements(self, table: Table, spec: SetSpec, *, is_watched: bool = False) -> Iterator[Element]:
        """All elements of a set, streamed. Nothing when the set or the table is not there.

        Raises DumpInterruptedError, at any point, when the ruleset changes meanwhile; not so with `is_watched`, for who
        hears by other means of changes to this very table: others may change theirs all the time. Expensive: about
        4 us an element; for a start or a repair, never for a change. Ask nothing else before it is exhausted or closed.
        """
        name = (uapi.NFTA_SET_ELEM_LIST_TABLE, table.name), (uapi.NFTA_SET_ELEM_LIST_SET, spec.name)
        payload = b"".join(text(kind, value) for kind, value in name)
        for _, reply in self._dump(uapi.NFT_MSG_GETSETELEM, table, payload, is_watched=is_watched):
            yield from parse_elements(reply)

    def read_timed(self, table: Table, spec: SetSpec, most: int) -> Iterator[list[Timed]]:
        """Elements of a map whose elements expire, as they come; nothing when there is no such map.

        No more once `most` were seen. Nobody else waits for it, as it has a socket of its own; one call at a time.
        """
        name = (uapi.NFTA_SET_ELEM_LIST_TABLE, table.name), (uapi.NFTA_SET_ELEM_LIST_SET, spec.name)
        payload = b"".join(text(kind, value) for kind, value in name)
        sizes = spec.key_bytes(table.family), spec.data_bytes(table.family)
        sequence, seen, is_over = self._next_sequence(1), 0, False
        self._looker.send(request(uapi.NFT_MSG_GETSETELEM, uapi.NLM_F_DUMP, table.family, payload, sequence))
        try:
            while not is_over and seen < most:
                found: list[Timed] = []
                for answer in read_answers(self._looker.recv(_DATAGRAM_BYTES)):
                    is_over = is_over or answer.error is not None
                    if answer.error is None:
                        found += parse_timed(answer.payload, *sizes)
                    elif answer.error != errno.ENOENT:
                        _check(answer, uapi.NFT_MSG_GETSETELEM)
                seen += len(found)
                yield found
        finally:
            if not is_over:
                self._looker.close()
                self._looker = _open()

    def settle(self) -> None:
        """Wait until every commit that is visible is announced, too.

        A commit becomes visible, then its notifications are sent, and only then is the kernel's commit lock let go. An
        empty batch takes that lock, in this call, and changes nothing. (2 us.)
        """
        with self._write_lock:
            self._send(Batch().encode(self._next_sequence(2)))
            self._drain()

    def get_element(self, table: Table, spec: SetSpec, key: bytes) -> Element | None:
        """The element of a set or map that has this very key; None when there is none, or no such set."""
        self.counters.gets += 1
        payload = element_question(table, spec, key)
        with self._read_lock:
            try:
                replies = list(self._ask(uapi.NFT_MSG_GETSETELEM, 0, table.family, payload, is_watched=True))
            except NetlinkError as error:
                if error.errno != errno.ENOENT:
                    raise
                return None
        return next((each for _, reply in replies for each in parse_elements(reply) if each.key == key), None)

    def _names(self, kind: int, table: Table, of_table: int, of_name: int) -> list[str]:
        mine = table.name.encode("ascii") + b"\0"
        return [
            name_of(parsed[of_name])
            for _, payload in self._dump(kind, table, text(of_table, table.name))
            if (parsed := parse(payload)).get(of_table) == mine
        ]

    def _dump(
        self, kind: int, table: Table, payload: bytes, *, is_watched: bool = False
    ) -> Iterator[tuple[int, bytes]]:
        with self._read_lock:
            self.counters.dumps += 1
            try:
                yield from self._ask(kind, uapi.NLM_F_DUMP, table.family, payload, is_watched=is_watched)
            except NetlinkError as error:
                if error.errno != errno.ENOENT:
                    raise

    def _ask(
        self, kind: int, flags: int, family: int, payload: bytes, *, is_watched: bool = False
    ) -> Iterator[tuple[int, bytes]]:
        """Send one question and yield (type, attributes) of each reply; call with the read lock held."""
        sequence = self._next_sequence(1)
        ack = 0 if flags else uapi.NLM_F_ACK
        self._reader.send(request(kind, flags | ack, family, payload, sequence))
        finished = False
        generation: int | None = None
        try:
            while not finished:
                for answer in read_answers(self._reader.recv(_DATAGRAM_BYTES)):
                    if answer.sequence != sequence:
                        continue
                    if answer.error is not None:
                        finished = True
                        _check(answer, kind)
                        continue
                    if not is_watched and (answer.interrupted or generation not in (None, answer.generation)):
                        raise DumpInterruptedError(f"nf_tables changed while message type {kind} was dumped")
                    generation = answer.generation
                    yield answer.kind, answer.payload
        finally:
            if not finished:
                self._finish_dump(sequence)

    def _finish_dump(self, sequence: int) -> None:
        """A dump left half-way would make the next question fail with EBUSY, so the rest is read and thrown away."""
        while not any(
            answer.sequence == sequence and answer.error is not None
            for answer in read_answers(self._reader.recv(_DATAGRAM_BYTES))
        ):
            pass

    def _next_sequence(self, count: int) -> int:
        if self._sequence > _SEQUENCE_MAX:
            self._sequence = 0
        first = self._sequence + 1
        self._sequence += count
        return first

    def _make_room(self, size: int) -> None:
        """A batch is one datagram, and the kernel refuses those larger than the send buffer."""
        if size > BATCH_BYTES_MAX:
            raise ValueError(f"a batch of {size} bytes is over the limit of {BATCH_BYTES_MAX}: split it")
        if size + 4096 <= self._send_buffer_bytes:
            return
        try:
            self._writer.setsockopt(socket.SOL_SOCKET, uapi.SO_SNDBUFFORCE, size)
        except PermissionError:
            self._writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
        self._send_buffer_bytes = self._writer.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)

    def _send(self, data: bytes) -> None:
        """Python repeats a call that a signal interrupted; the kernel hands EINTR through only when it did nothing."""
        for _ in range(_INTERRUPTED_SENDS_MAX):
            try:
                self._writer.send(data)
            except InterruptedError:
                continue
            except OSError as error:
                raise NetlinkError(
                    errno=error.errno or errno.EIO, message_index=None, what=f"sending {len(data)} bytes"
                ) from error
            return
        raise NetlinkError(errno=errno.EINTR, message_index=None, what=f"sending {len(data)} bytes")

    def _drain(self) -> tuple[list[Answer], bool]:
        """All answers that wait, and whether some were lost because they did not fit the receive buffer."""
        answers: list[Answer] = []
        lost = False
        while True:
            try:
                answers += read_answers(self._writer.recv(_DATAGRAM_BYTES, socket.MSG_DONTWAIT))
            except BlockingIOError:
                return answers, lost
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True


def _check(answer: Answer, kind: int) -> None:
    """The end of an exchange: good, or the kernel's reason."""
    if answer.error:
        raise NetlinkError(
            errno=answer.error, message_index=None, what=f"question of type {kind}", reason=answer.reason
        )


def _open() -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, uapi.NETLINK_NETFILTER)
    try:
        opened.setsockopt(uapi.SOL_NETLINK, uapi.NETLINK_EXT_ACK, 1)
        opened.setsockopt(uapi.SOL_NETLINK, uapi.NETLINK_CAP_ACK, 1)
        try:
            opened.setsockopt(socket.SOL_SOCKET, uapi.SO_RCVBUFFORCE, _RECEIVE_BYTES)
        except PermissionError:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        opened.bind((0, 0))
    except BaseException:
        opened.close()
        raise
    return opened
