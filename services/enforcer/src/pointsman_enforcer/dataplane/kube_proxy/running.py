# SPDX-License-Identifier: Apache-2.0
"""Signs that a kube-proxy runs in this network namespace. Blocking; a walk through /proc.

A process is certain, but seen only from the host's process namespace. Somebody at kube-proxy's port is a hint and no
more. A kube-proxy that is part of another process (k3s) shows itself by neither: its rules come back.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

PROGRAM: Final = "kube-proxy"
HEALTHZ_PORT: Final = 10256
_PROC: Final = Path("/proc")
_LISTENING: Final = "0A"


def process() -> int:
    """Number of a kube-proxy process of this network namespace; 0 when none is seen."""
    mine = _namespace(_PROC / "thread-self")
    for each in _processes():
        try:
            name = (each / "comm").read_text().strip()
        except OSError:
            continue  # it has ended
        if name == PROGRAM and _namespace(each) == mine:
            return int(each.name)
    return 0


def is_port_taken() -> bool:
    """Whether another process than this one listens at the port of kube-proxy's health page."""
    listening = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "thread-self/net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for words in map(str.split, lines):
            if words[3] == _LISTENING and int(words[1].rpartition(":")[2], 16) == HEALTHZ_PORT:
                listening.add(f"socket:[{words[9]}]")
    return bool(listening - set(_own_sockets()))


def _processes() -> Iterator[Path]:
    return (each for each in _PROC.iterdir() if each.name.isdigit())


def _namespace(process: Path) -> str:
    """Which network namespace; empty when we may not know."""
    try:
        return str((process / "ns/net").readlink())
    except OSError:
        return ""


def _own_sockets() -> Iterator[str]:
    for each in (_PROC / "self/fd").iterdir():
        try:
            yield str(each.readlink())
        except OSError:
            continue
