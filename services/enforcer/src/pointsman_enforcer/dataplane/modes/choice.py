# SPDX-License-Identifier: Apache-2.0
"""Mode `auto`: the first mode of an order that this host can run, and why it is that one.

The order is that of what a node gains. nftables costs least for each change, tells other nodes of its clients, and can
be asked what it holds. iptables has the same rows of conformance, but costs the whole table. ipvs comes after it though
its changes are cheap: it needs iptables and ipset as well, its session affinity deviates more, and other users of the
packet mark disturb it. userspace comes last, as endpoints no longer see clients and a restart is felt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from msgspec import structs

from pointsman_chassis.errors import UnsupportedError
from pointsman_enforcer.dataplane.base import ProxyMode
from pointsman_enforcer.mode_settings import ModeName, VariantName
from pointsman_enforcer.settings import EnforcerConfiguration

ORDER: Final[tuple[ProxyMode, ...]] = (ProxyMode.NFTABLES, ProxyMode.IPTABLES, ProxyMode.IPVS, ProxyMode.USERSPACE)
_NAMES: Final[dict[ProxyMode, ModeName]] = {
    ProxyMode.NFTABLES: "nftables",
    ProxyMode.IPTABLES: "iptables",
    ProxyMode.IPVS: "ipvs",
    ProxyMode.USERSPACE: "userspace",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The configuration with the mode in effect, which is never `auto`."""

    config: EnforcerConfiguration
    reason: str
    """Why it is this mode, for people."""


def choose(config: EnforcerConfiguration, why_not: Callable[[EnforcerConfiguration], str]) -> Choice:
    """The configured mode, or for `auto` the first for which `why_not` has no words.

    Raises:
        UnsupportedError: `auto`, and no mode can run here; all reasons are in the message.
    """
    if config.mode != "auto":
        return Choice(config=config, reason="configured")
    refused: list[str] = []
    for mode in ORDER:
        candidate = structs.replace(config, mode=_NAMES[mode])
        words = why_not(candidate)
        if not words:
            reason = f"auto: {'; '.join([f'the first of {_order()} that this host can run', *refused])}"
            return Choice(config=candidate, reason=reason)
        refused.append(f"not {mode.value}: {words}")
    raise UnsupportedError(f"mode auto: this host can run none of {_order()}: {'; '.join(refused)}")


def with_variant(choice: Choice, detect: Callable[[], VariantName]) -> Choice:
    """The same with one variant of iptables, where the mode uses the tool: from now on nobody decides anew."""
    config = choice.config
    uses_tool = config.mode in ("iptables", "ipvs") or (
        config.mode == "userspace" and config.userspace.redirect == "iptables"
    )
    if not uses_tool or config.iptables.variant != "auto":
        return choice
    variant = detect()
    return Choice(
        config=structs.replace(config, iptables=structs.replace(config.iptables, variant=variant)),
        reason=f"{choice.reason}; iptables variant {variant}, which this host uses",
    )


def _order() -> str:
    return ", ".join(mode.value for mode in ORDER)
