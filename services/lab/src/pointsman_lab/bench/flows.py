# SPDX-License-Identifier: Apache-2.0
"""Connections from inside a network namespace, every single one accounted for.

    python -m pointsman_lab.bench.flows SOCKET JSON

JSON is a list of {"kind": "connect" | "hold", "address", "port", "protocol", "workers", "pause_seconds",
"timeout_seconds"}.

connect: each worker opens a connection, asks one line, reads the answer, closes, pauses, for ever.
hold: each worker keeps one TCP connection, or one UDP socket and so one flow, and asks over it again and again.

Connects to the Unix socket SOCKET and writes one JSON array for each question, [index in the list, started, ended,
outcome], in batches; instants are CLOCK_MONOTONIC. Outcome 0 is an answer, else an errno: ETIMEDOUT, ECONNREFUSED,
ECONNRESET; MOVED (-1) is a flow whose answer came from another pod than its first, UNOPENED (-2) a held connection that
had broken before and could not be opened again. Ends when SOCKET is closed at the other end, after the questions under
way. Independent of all code under measurement: standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import json
import select
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Final

MOVED: Final = -1
UNOPENED: Final = -2
_FLUSH_SECONDS: Final = 0.05
_ANSWER_BYTES_MAX: Final = 4096
_DIGITS: Final = 6


@dataclass(slots=True)
class _Account:
    """What the workers have seen and nobody was told yet. Appending to a list needs no lock."""

    records: list[tuple[int, float, float, int]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def add(self, index: int, started: float, outcome: int) -> None:
        """Account for one question that ended now."""
        self.records.append((index, round(started, _DIGITS), round(time.monotonic(), _DIGITS), outcome))


class _WrongAnswerError(Exception):
    """The answer is not from the pod that answered this flow before."""


def _connect(index: int, settings: dict[str, Any], account: _Account) -> None:
    while not account.stop.is_set():
        started = time.monotonic()
        try:
            with _open(settings) as sock:
                sock.sendall(b"?\n")
                _read_line(sock)
            account.add(index, started, 0)
        except OSError as error:
            account.add(index, started, error.errno or errno.ETIMEDOUT)
        account.stop.wait(settings["pause_seconds"])


class _Held:
    """One connection or flow that is to last."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._sock: socket.socket | None = None
        self._pod = ""
        self._number = 0

    def run(self, index: int, account: _Account) -> None:
        """Ask until stopped."""
        while not account.stop.is_set():
            started = time.monotonic()
            try:
                self._ask()
                account.add(index, started, 0)
            except _WrongAnswerError:
                account.add(index, started, MOVED)
            except OSError as error:
                account.add(index, started, UNOPENED if self._sock is None else error.errno or errno.ETIMEDOUT)
                self._give_up()
            account.stop.wait(self._settings["pause_seconds"])
        if self._sock is not None:
            self._sock.close()

    def _ask(self) -> None:
        if self._sock is None:
            self._sock, self._pod = _open(self._settings), ""
        self._number += 1
        text = f"hold {self._number}"
        self._sock.sendall(text.encode() + b"\n")
        while True:
            answer = json.loads(_read_line(self._sock))
            if answer["request"] == text:
                break  # else the late answer to a datagram that was given up
        first, self._pod = self._pod or answer["pod"], answer["pod"]
        if first != self._pod:
            raise _WrongAnswerError

    def _give_up(self) -> None:
        """A broken connection is opened anew; a flow is a socket, and stays the same whatever it hears."""
        if self._settings["protocol"] != "UDP" and self._sock is not None:
            self._sock.close()
            self._sock = None


def _open(settings: dict[str, Any]) -> socket.socket:
    kind = socket.SOCK_DGRAM if settings["protocol"] == "UDP" else socket.SOCK_STREAM
    family = socket.AF_INET6 if ":" in settings["address"] else socket.AF_INET
    sock = socket.socket(family, kind)
    try:
        sock.settimeout(settings["timeout_seconds"])
        sock.connect((settings["address"], settings["port"]))
    except BaseException:
        sock.close()
        raise
    return sock


def _read_line(sock: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        piece = sock.recv(_ANSWER_BYTES_MAX)
        if not piece:
            raise ConnectionResetError(errno.ECONNRESET, "closed without an answer")
        data += piece
    return data


def _hold(index: int, settings: dict[str, Any], account: _Account) -> None:
    _Held(settings).run(index, account)


def main() -> int:
    """Work until the other end closes the socket."""
    path, account = sys.argv[1], _Account()
    workers = [
        threading.Thread(
            target=_connect if settings["kind"] == "connect" else _hold, args=(index, settings, account), daemon=True
        )
        for index, settings in enumerate(json.loads(sys.argv[2]))
        for _ in range(settings["workers"])
    ]
    with socket.socket(socket.AF_UNIX) as out, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        out.connect(path)
        for worker in workers:
            worker.start()
        while not select.select([out], [], [], _FLUSH_SECONDS)[0]:
            _flush(account, out)
        account.stop.set()
        for worker in workers:
            worker.join()
        _flush(account, out)
    return 0


def _flush(account: _Account, out: socket.socket) -> None:
    records, account.records = account.records, []
    if records:
        out.sendall("".join(json.dumps(record) + "\n" for record in records).encode())


if __name__ == "__main__":
    sys.exit(main())
