# SPDX-License-Identifier: Apache-2.0
"""Pipes to splice through: bytes go from socket to socket inside the kernel.

For many bytes that costs two thirds of what copying them costs. A few pipes serve all connections: a pipe is borrowed
while much is said.
"""

from __future__ import annotations

import fcntl
import os
from typing import Final, NamedTuple

PIPE_BYTES: Final = 1 << 20
_BYTES_MIN: Final = 256 << 10
"""Smaller ones win nothing over copying: unprivileged users get 64 KiB once they have many pipes."""


class Pipe(NamedTuple):
    """An empty pipe, while it is nobody's."""

    source: int
    target: int
    size: int


class Pipes:
    """A bounded pool."""

    def __init__(self, most: int) -> None:
        self._left = most
        self._free: list[Pipe] = []

    def take(self) -> Pipe | None:
        """A pipe; None when there is none to be had, now or ever."""
        if self._free:
            return self._free.pop()
        if self._left <= 0:
            return None
        try:
            source, target = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        pipe = Pipe(source, target, _sized(target))
        if pipe.size < _BYTES_MIN:
            self._left = 0
            _close(pipe)
            return None
        self._left -= 1
        return pipe

    def give_back(self, pipe: Pipe, *, is_empty: bool) -> None:
        """No longer needed; one with something in it is of no use to others."""
        if is_empty:
            self._free.append(pipe)
        else:
            self._left += 1
            _close(pipe)

    def close(self) -> None:
        """Close those that are nobody's."""
        while self._free:
            _close(self._free.pop())


def _sized(descriptor: int) -> int:
    try:
        return fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except OSError:
        return fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ)


def _close(pipe: Pipe) -> None:
    os.close(pipe.source)
    os.close(pipe.target)
