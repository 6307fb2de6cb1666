# SPDX-License-Identifier: Apache-2.0
"""What of the enforcer's configuration the static rules depend on, checked once and handed on as frozen values."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_model.plan import DataplaneSettings, DetectLocal

_INTERFACE: Final = re.compile(r"[^\s/:*\"]{1,15}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PodPrefix:
    """Pods are who has a source address in this prefix (detect-local modes ClusterCIDR and NodeCIDR)."""

    network: ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class PodInterface:
    """Pods are who comes in by this interface or, with `prefix`, by any whose name begins so.

    These are the detect-local modes BridgeInterface and InterfaceNamePrefix. What the host itself sends comes in by no
    interface, so it is never a pod.
    """

    name: str
    prefix: bool = False

    def __post_init__(self) -> None:
        if not _INTERFACE.fullmatch(self.name) or not self.name.isascii():
            raise ValueError(
                f"{self.name!r} is no interface name: 1 to 15 characters without space, quote, '/', ':' and '*'"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SkeletonSettings:
    """What of the enforcer's configuration the static rules depend on, for one family.

    Attributes:
        masquerade_bit: the one bit of the packet mark that is ours between dispatch and postrouting, 0..31.
        masquerade_all: masquerade all traffic to cluster IPs, whoever sends it.
        masquerade_local: also what stays on this host. A proxy that rules lead to must see who asks.
        pods: how traffic of pods is recognised; None when it cannot be. Then nobody is a pod, and no traffic to
            cluster IPs is masqueraded (unless `masquerade_all`).
    """

    masquerade_bit: int = 14
    masquerade_all: bool = False
    masquerade_local: bool = True
    pods: PodPrefix | PodInterface | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.masquerade_bit <= 31:
            raise ValueError(f"masquerade bit {self.masquerade_bit} is not in 0..31")


def pods_of(settings: DataplaneSettings, family: Family) -> PodPrefix | PodInterface | None:
    """How the settings in effect recognise pods of one family."""
    if settings.detect_local is DetectLocal.NONE:
        return None
    if settings.detect_local is DetectLocal.CIDR:
        cidrs = settings.detect_local_cidrs
        first = next((each for each in cidrs if each.family.address_bytes == family.address_bytes), None)
        return None if first is None else PodPrefix(network=ipaddress.ip_network((first.address, first.length)))
    return PodInterface(
        name=settings.detect_local_interface, prefix=settings.detect_local is DetectLocal.INTERFACE_PREFIX
    )
