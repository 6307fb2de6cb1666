# SPDX-License-Identifier: Apache-2.0
"""Routing and sysctls of the node, of the network namespace of the calling thread. May be repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pointsman_enforcer.dataplane import exec  # noqa: A004 - the door is named after what passes it
from pointsman_enforcer.dataplane.exec import CommandError
from pointsman_enforcer.dataplane.ipvs import static
from pointsman_enforcer.dataplane.ipvs.layout import TAKEN
from pointsman_model.names import Family

_NET: Final = Path("/proc/sys/net")
SYSCTLS: Final = {
    "ipv4/vs/conntrack": "1",
    "ipv4/vs/expire_nodest_conn": "1",
    "ipv4/vs/expire_quiescent_template": "1",
    "ipv4/ip_forward": "1",
}


def prepare() -> None:
    """Set sysctls, and route what IPVS takes to this host. CommandError or OSError when refused."""
    for name, value in SYSCTLS.items():
        path = _NET / name
        if path.read_text().strip() != value:
            path.write_text(f"{value}\n")
    for family in Family:
        route, rule = static.routing_commands(family)
        exec.run(["ip", *route])
        if f"{static.ROUTES}:" not in exec.run(["ip", f"-{family.value}", "rule"]):
            exec.run(["ip", *rule])


def undo() -> None:
    """Take the routes away; sysctls stay, as others may rely on them by now."""
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
