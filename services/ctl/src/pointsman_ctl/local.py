# SPDX-License-Identifier: Apache-2.0
"""What this machine's kernel has of Pointsman, as its own tools list it. Reads only."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from typing import Final

from pointsman_ctl.errors import ToolError

_SECONDS_MAX: Final = 60.0
_NFTABLES: Final[tuple[tuple[str, ...], ...]] = (
    ("nft", "list", "table", "ip", "pointsman"),
    ("nft", "list", "table", "ip6", "pointsman"),
)
_IPTABLES: Final[tuple[tuple[str, ...], ...]] = (("iptables-save",), ("ip6tables-save",))
_IPVS: Final[tuple[tuple[str, ...], ...]] = (("ipvsadm", "-Sn"),)
_MARK: Final = "POINTSMAN"
_ABSENT: Final = ("No such file or directory", "does not exist")


def kernel_rules(run: Sequence[str] = ()) -> Iterator[str]:
    """The lines; `run` goes before each command, to run it elsewhere.

    Raises:
        ToolError: no tool is there, or one fails for another reason than that there is nothing of ours.
    """
    tools = 0
    for argv in _NFTABLES:
        said = _says(run, argv)
        tools += said is not None
        if said:
            yield from ["# " + " ".join(argv), *said.splitlines()]
    for argv in _IPTABLES:
        said = _says(run, argv)
        tools += said is not None
        ours = [line for line in (said or "").splitlines() if _MARK in line or line.startswith("*")]
        if any(_MARK in line for line in ours):
            yield from ["# " + " ".join(argv), *ours]
    for argv in _IPVS:
        said = _says(run, argv)
        tools += said is not None
        if said and said.strip():
            yield from ["# " + " ".join(argv), *said.splitlines()]
    if not tools:
        raise ToolError("neither nft nor iptables-save nor ipvsadm could be run; is this a node, and am I root?")


def _says(run: Sequence[str], argv: Sequence[str]) -> str | None:
    """What a tool prints: empty when it knows nothing of ours, None when it is not there."""
    try:
        done = subprocess.run([*run, *argv], capture_output=True, check=False, timeout=_SECONDS_MAX)
    except FileNotFoundError:
        return None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolError(f"{argv[0]}: {error}") from error
    if done.returncode == 0:
        return done.stdout.decode(errors="replace")
    said = done.stderr.decode(errors="replace").strip()
    if any(word in said for word in _ABSENT):
        return ""
    if "not found" in said or "executable file" in said:
        return None
    if argv[0] != "nft":
        return None
    raise ToolError(f"`{' '.join(argv)}`: {said.partition(chr(10))[0] or f'status {done.returncode}'}; it needs root")
