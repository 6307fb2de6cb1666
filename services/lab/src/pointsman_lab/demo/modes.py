# SPDX-License-Identifier: Apache-2.0
"""The modes a demo can be played in, and what each is declared to do otherwise.

A check that a mode cannot meet by declaration is replaced by one for what is declared, and says so by name: it is never
left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from pointsman_lab.guest.modules import IPVS_MODULES


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoMode:
    """How the enforcers of a demo are configured, and what follows from it."""

    name: str
    enforcer_mode: str
    enforcer_config: Mapping[str, Any] = field(default_factory=dict)
    planners: int = 3
    start_timeout_seconds: float = 30.0
    guest_modules: tuple[str, ...] = ()
    """Modules of the guest that it is played in; none for the kernel here."""
    hides_clients: bool = False
    """Endpoints see the node's address in place of the client's."""
    serves_in_process: bool = False
    """New connections are refused while the enforcer is away after a crash."""


def _iptables(name: str, variant: str) -> DemoMode:
    return DemoMode(name=name, enforcer_mode="iptables", enforcer_config={"iptables": {"variant": variant}})


NFTABLES: Final = DemoMode(name="nftables", enforcer_mode="nftables")
_USERSPACE: Final = DemoMode(name="userspace", enforcer_mode="userspace", hides_clients=True, serves_in_process=True)
# A guest has one slow processor: fewer processes, and more time for them to start.
_IPVS: Final = DemoMode(
    name="ipvs",
    enforcer_mode="ipvs",
    enforcer_config={"iptables": {"variant": "legacy"}},
    planners=2,
    start_timeout_seconds=180.0,
    guest_modules=IPVS_MODULES,
)

MODES: Final[Mapping[str, DemoMode]] = MappingProxyType(
    {
        each.name: each
        for each in (
            NFTABLES,
            _iptables("iptables", "auto"),
            _iptables("iptables-legacy", "legacy"),
            _iptables("iptables-nft", "nft"),
            _IPVS,
            _USERSPACE,
        )
    }
)
