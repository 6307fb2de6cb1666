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


def choose(
    config: EnforcerConfiguration,
    why_not: Callable[[EnforcerConfiguration], str],
    detect: Callable[[], VariantName],
) -> Choice:
    """The configured mode, or for `auto` the first for which `why_not` has no words; and one variant of iptables.

    Where the variant is `auto` it is the one that `detect` says this host uses; mode `auto` alone tries the other, too.

    Raises:
        UnsupportedError: `auto`, and no mode can run here; all reasons are in the message.
    """
    if config.mode != "auto":
        return _with_variants(config, detect)[0]
    refused: list[str] = []
    for mode in ORDER:
        try:
            candidates = _with_variants(structs.replace(config, mode=_NAMES[mode]), detect)
        except UnsupportedError as error:
            refused.append(f"not {mode.value}: {error}")
            continue
        for candidate in candidates:
            words = why_not(candidate.config)
            if not words:
                head = (
                    f"auto: the first of {_order()} that this host can run{candidate.reason.removeprefix('configured')}"
                )
                return Choice(config=candidate.config, reason="; ".join([head, *refused]))
            refused.append(f"not {mode.value}{candidate.reason.removeprefix('configured')}: {words}")
    raise UnsupportedError(f"mode auto: this host can run none of {_order()}: {'; '.join(refused)}")


def _with_variants(config: EnforcerConfiguration, detect: Callable[[], VariantName]) -> list[Choice]:
    """The same with each variant of iptables, the host's own first: from now on nobody decides anew."""
    uses_tool = config.mode in ("iptables", "ipvs") or (
        config.mode == "userspace" and config.userspace.redirect == "iptables"
    )
    if not uses_tool or config.iptables.variant != "auto":
        return [Choice(config=config, reason="configured")]
    mine = detect()
    other: VariantName = "nft" if mine == "legacy" else "legacy"
    return [
        Choice(
            config=structs.replace(config, iptables=structs.replace(config.iptables, variant=variant)),
            reason=f"configured, with iptables variant {variant}{' as this host' if variant == mine else ''}",
        )
        for variant in (mine, other)
    ]


def _order() -> str:
    return ", ".join(mode.value for mode in ORDER)
