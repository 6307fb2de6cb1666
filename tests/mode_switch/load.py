# SPDX-License-Identifier: Apache-2.0
"""Traffic that forgives nothing: new connections all the time, and long-lived flows that are used all the time."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

from support.netns import NetNs

PATIENCE_SECONDS = 5.0
DELAYED_SECONDS = 0.9
"""A connection that took so long had its first packet dropped: TCP repeats it after one second."""
_PAUSE_SECONDS = 0.002
_PING_SECONDS = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Who connects to where."""

    client: NetNs
    address: str
    port: int


@dataclass(slots=True, kw_only=True)
class Counts:
    """What happened. Not frozen: threads count up."""

    opened: int = 0
    delayed: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    held: int = 0
    reset: Counter[str] = field(default_factory=Counter)

    def as_data(self) -> dict[str, object]:
        """For JSON."""
        plain = {name: getattr(self, name) for name in ("opened", "delayed", "held")}
        return {**plain, "failed": dict(self.failed), "reset": dict(self.reset)}

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Counts:
        """What `as_data` gave."""
        return cls(**{**data, "failed": Counter(data["failed"]), "reset": Counter(data["reset"])})

    def add(self, other: Counts) -> None:
        """Add what another thread counted."""
        self.opened += other.opened
        self.delayed += other.delayed
        self.failed.update(other.failed)
        self.held += other.held
        self.reset.update(other.reset)


class Load:
    """A context manager: the flows are open before the block begins, and judged after it ended."""

    def __init__(self, targets: list[Target], *, flows: int = 4) -> None:
        self.counts = Counts()
        self._over = threading.Event()
        self._parts = [Counts() for _ in targets]
        self._held = Counts()
        self._flows = [(target, _open(target)) for target in targets for _ in range(flows)]
        self._datagrams = [_Datagrams(target) for target in targets]
        self._threads = [
            threading.Thread(target=self._open_all, args=pair) for pair in zip(targets, self._parts, strict=True)
        ]
        self._threads.append(threading.Thread(target=self._use_all))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        for _, flow in self._flows:
            flow.close()
        for each in self._datagrams:
            each.socket.close()
        for part in (*self._parts, self._held):
            self.counts.add(part)

    def stop(self) -> None:
        """End the traffic, before anything else ends that it would notice."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _open_all(self, target: Target, counts: Counts) -> None:
        while not self._over.is_set():
            started = time.monotonic()
            try:
                flow = _open(target)
            except OSError as error:
                counts.failed[type(error).__name__] += 1
                time.sleep(_PAUSE_SECONDS)
                continue
            flow.close()
            counts.opened += 1
            counts.delayed += time.monotonic() - started > DELAYED_SECONDS
            time.sleep(_PAUSE_SECONDS)

    def _use_all(self) -> None:
        flows = list(self._flows)
        while not self._over.is_set():
            for pair in list(flows):
                try:
                    _ask(pair[1])
                except OSError as error:
                    self._held.reset[f"TCP {type(error).__name__}"] += 1
                    flows.remove(pair)
            for each in self._datagrams:
                each.ask()
            time.sleep(_PING_SECONDS)
        self._held.held = len(flows)
        for each in self._datagrams:
            if each.moved:
                self._held.reset["UDP moved"] += 1
            else:
                self._held.held += 1


class _Datagrams:
    """One UDP flow: who answers must stay the same; a lost datagram is a lost datagram."""

    def __init__(self, target: Target) -> None:
        self.socket = target.client.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect((target.address, target.port))
        self.socket.settimeout(PATIENCE_SECONDS)
        self.socket.send(b"who?")
        self._answer = self.socket.recv(128)
        self.socket.setblocking(False)
        self.moved = False

    def ask(self) -> None:
        """Send, and look at what came since."""
        try:
            self.socket.send(b"who?")
            self.moved |= self.socket.recv(128).split()[0] != self._answer.split()[0]
        except OSError:
            return


def _open(target: Target) -> socket.socket:
    """A connection that was answered."""
    flow = target.client.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        flow.settimeout(PATIENCE_SECONDS)
        flow.connect((target.address, target.port))
        _ask(flow)
    except OSError:
        flow.close()
        raise
    return flow


def _ask(flow: socket.socket) -> None:
    flow.sendall(b"who?")
    if not flow.recv(128):
        raise ConnectionResetError("the other end closed")
