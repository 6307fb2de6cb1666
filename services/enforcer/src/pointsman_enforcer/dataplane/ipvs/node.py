# SPDX-License-Identifier: Apache-2.0
"""Routing and sysctls of the node, of the network namespace of the calling thread. May be repeated.

`expire_nodest_conn` has IPVS forget, when a real server goes, every flow to it. A UDP flow must not stick to an
endpoint that is gone, so our own removals happen with it. It is off otherwise: the servers that somebody else removes
(`ipvsadm -C`) come back within a second, and the connections to them go on. Kernels before 5.9 forget a flow only when
its next packet comes, so there it stays on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from pointsman_enforcer.dataplane import exec  # noqa: A004 - the door is named after what passes it
from pointsman_enforcer.dataplane.exec import CommandError
from pointsman_enforcer.dataplane.ipvs import static
from pointsman_enforcer.dataplane.ipvs.layout import TAKEN
from pointsman_enforcer.dataplane.proc_sys import network_sysctls
from pointsman_model.names import Family, parse_address

_EXPIRE: Final = "ipv4/vs/expire_nodest_conn"
_SYSCTLS: Final = {
    "ipv4/vs/conntrack": "1",
    "ipv4/vs/expire_quiescent_template": "1",
    "ipv4/ip_forward": "1",
}
_STRICT_ARP: Final = {"ipv4/conf/all/arp_ignore": "1", "ipv4/conf/all/arp_announce": "2"}
_FORGETS_AT_ONCE: Final = (5, 9)
_REUSE_BROKEN: Final = ((4, 1), (5, 9))
"""Kernels that delay a new connection from a port in TIME_WAIT by a second unless told not to reuse it."""


def sysctls(*, strict_arp: bool, release: str) -> Mapping[str, str]:
    """What is set on a kernel of this release, by path under /proc/sys/net."""
    version = _version(release)
    wanted = {**_SYSCTLS, _EXPIRE: "0" if version >= _FORGETS_AT_ONCE else "1"}
    if _REUSE_BROKEN[0] <= version < _REUSE_BROKEN[1]:
        wanted["ipv4/vs/conn_reuse_mode"] = "0"
    return {**wanted, **(_STRICT_ARP if strict_arp else {})}


class Sysctls:
    """The switches that IPVS mode needs, of the namespace in which this object is made."""

    def __init__(self, *, strict_arp: bool = False, release: str = "") -> None:
        """OSError when one of them is not there."""
        self._wanted = sysctls(strict_arp=strict_arp, release=release or os.uname().release)
        self._opened: dict[str, int] = {}
        try:
            for name in self._wanted:
                self._opened[name] = os.open(network_sysctls() / name, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            self.close()
            raise

    def set(self) -> int:
        """Set what differs; how many."""
        differing = self.differing()
        for name in differing:
            self._write(name, self._wanted[name])
        return len(differing)

    def differing(self) -> list[str]:
        """Those that somebody else set otherwise."""
        return [name for name, value in self._wanted.items() if self._read(name) != value]

    @contextmanager
    def forgetting(self) -> Iterator[None]:
        """Within it, flows to what is removed are forgotten."""
        is_needed = self._wanted[_EXPIRE] == "0"
        if is_needed:
            self._write(_EXPIRE, "1")
        try:
            yield
        finally:
            if is_needed:
                self._write(_EXPIRE, "0")

    def close(self) -> None:
        """Leave them as they are: others may rely on them by now."""
        for opened in self._opened.values():
            os.close(opened)
        self._opened.clear()

    def _read(self, name: str) -> str:
        return os.pread(self._opened[name], 32, 0).decode().strip()

    def _write(self, name: str, value: str) -> None:
        os.pwrite(self._opened[name], f"{value}\n".encode(), 0)


def route() -> None:
    """Route what IPVS takes to this host. CommandError when refused."""
    for family in Family:
        to_host, rule = static.routing_commands(family)
        exec.run(["ip", *to_host])
        if f"{static.ROUTES}:" not in exec.run(["ip", f"-{family.value}", "rule"]):
            exec.run(["ip", *rule])


def addresses() -> tuple[bytes, ...]:
    """The addresses of this host, for who has not been told which are the node's. CommandError."""
    lines = exec.run(["ip", "-oneline", "address"]).splitlines()
    return tuple(parse_address(line.split()[3].partition("/")[0]) for line in lines)


def unroute() -> None:
    """Take the routes away."""
    mark = f"0x{TAKEN:x}/0x{TAKEN:x}"
    for family in Family:
        version = f"-{family.value}"
        for command in (
            ["rule", "del", "fwmark", mark, "lookup", str(static.ROUTES), "priority", str(static.ROUTES)],
            ["route", "flush", "table", str(static.ROUTES)],
        ):
            try:
                exec.run(["ip", version, *command])
            except CommandError:
                continue


def _version(release: str) -> tuple[int, int]:
    """The first two numbers of a kernel's release, 6.1.0-42 for example; ValueError when it has none."""
    found = re.match(r"(\d+)\.(\d+)", release)
    if found is None:
        raise ValueError(f"{release!r} is no release of a kernel")
    return int(found[1]), int(found[2])
