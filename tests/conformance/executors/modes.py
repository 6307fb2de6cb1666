# SPDX-License-Identifier: Apache-2.0
"""The modes whose dataplane exists, and what the kernel executor has to know of each.

To add a mode, add a `KernelMode` here: everything else of the suite asks for it by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from conformance.executors.deviations import IPTABLES as IPTABLES_DEVIATIONS
from conformance.executors.deviations import IPVS as IPVS_DEVIATIONS
from conformance.executors.deviations import USERSPACE as USERSPACE_DEVIATIONS
from conformance.executors.deviations import Deviation
from conformance.executors.prober import ANSWER_SECONDS
from conformance.model import Disturbance

from pointsman_enforcer.dataplane.base import Dataplane
from pointsman_enforcer.dataplane.iptables.backend import IptablesDataplane
from pointsman_enforcer.dataplane.ipvs.backend import IpvsDataplane
from pointsman_enforcer.dataplane.nftables.backend import NftablesDataplane
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_enforcer.dataplane.userspace.backend import UserspaceDataplane
from pointsman_enforcer.dataplane.userspace.limits import ProxyLimits
from pointsman_enforcer.dataplane.xtables.tools import Variant
from pointsman_lab.guest.modules import IPVS_MODULES

Command = Sequence[str]
_LEGACY_TOOLS = ("iptables-legacy", "ip6tables-legacy")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelMode:
    """One value of `MODE=`.

    Attributes:
        name: what it is called there.
        rows: which of the modes that rows name it is held to (`Row.modes`); two may share one, as the two variants of
            iptables do.
        open_dataplane: makes the dataplane, in a thread that is inside the node's network namespace.
        damages: for each of `model.DAMAGES` the commands by which somebody else does it, run inside the node; none
            where there is nothing in the kernel that could be damaged.
        draws_first_endpoint: with session affinity, which endpoint a client gets first is drawn by lot; that it keeps
            it is asked all the same.
        guest_modules: modules of the guest in which it runs; none for the kernel here.
        fewer: of generated rows it is asked so many times fewer, as its kernel is slow.
        workers: executors side by side.
        answer_seconds: how long an answer may take before it counts as dropped.
        deviations: what it does otherwise than the rows say.
    """

    name: str
    rows: str
    open_dataplane: Callable[[NodeSettings], Dataplane[Any]]
    damages: Mapping[Disturbance, Sequence[Command]]
    draws_first_endpoint: bool = False
    guest_modules: tuple[str, ...] = ()
    fewer: int = 1
    workers: int = 4
    answer_seconds: float = ANSWER_SECONDS
    deviations: Sequence[Deviation] = ()


def _open_nftables(settings: NodeSettings) -> Dataplane[Any]:
    return NftablesDataplane(node_settings=settings)


NFTABLES = KernelMode(
    name="nftables",
    rows="nftables",
    open_dataplane=_open_nftables,
    damages={
        Disturbance.FLUSHED: [("nft", "flush", "ruleset")],
        Disturbance.CHAIN_FLUSHED: [
            ("nft", "flush", "chain", family, "pointsman", "services") for family in ("ip", "ip6")
        ],
    },
)


_PROXY_WORKERS = 2
_PROXY_ANSWER_SECONDS = 20.0
"""The proxies are in this process, which on a busy machine has several thousand connections to look after at a time."""
UDP_IDLE_SECONDS = 30.0
"""Rows hold UDP flows open while plans change; a quarter of a second, as configured by default, would end them."""


def _open_userspace(settings: NodeSettings) -> Dataplane[Any]:
    return UserspaceDataplane(node_settings=settings, limits=ProxyLimits(udp_idle_seconds=UDP_IDLE_SECONDS))


USERSPACE = KernelMode(
    name="userspace",
    rows="nftables",
    open_dataplane=_open_userspace,
    damages=NFTABLES.damages,
    workers=_PROXY_WORKERS,
    answer_seconds=_PROXY_ANSWER_SECONDS,
    deviations=USERSPACE_DEVIATIONS,
)
"""The rules are those of nftables mode, so its rows are what they must do."""


def _open_userspace_by_iptables(settings: NodeSettings) -> Dataplane[Any]:
    limits = ProxyLimits(udp_idle_seconds=UDP_IDLE_SECONDS)
    return UserspaceDataplane(node_settings=settings, variant=Variant.LEGACY, limits=limits)


def _iptables(variant: Variant) -> KernelMode:
    def open_dataplane(settings: NodeSettings) -> Dataplane[Any]:
        return IptablesDataplane(node_settings=settings, variant=variant)

    tools = [f"{tool}-{variant.value}" for tool in ("iptables", "ip6tables")]
    return KernelMode(
        name=f"iptables-{variant.value}",
        rows="iptables",
        draws_first_endpoint=True,
        deviations=IPTABLES_DEVIATIONS,
        open_dataplane=open_dataplane,
        damages={
            Disturbance.FLUSHED: [(tool, "-t", table, "-F") for tool in tools for table in ("mangle", "nat", "filter")],
            Disturbance.CHAIN_FLUSHED: [(tool, "-t", "nat", "-F", "POINTSMAN-SERVICES") for tool in tools],
        },
    )


def _with_proxy(rules: KernelMode) -> KernelMode:
    """Rules of iptables mode, so rows and damages are those of that mode; clients are remembered by the proxy."""
    return replace(
        rules,
        name=f"userspace-{rules.name}",
        open_dataplane=_open_userspace_by_iptables,
        draws_first_endpoint=False,
        workers=_PROXY_WORKERS,
        answer_seconds=_PROXY_ANSWER_SECONDS,
        deviations=USERSPACE_DEVIATIONS,
    )


IPTABLES_LEGACY, IPTABLES_NFT = _iptables(Variant.LEGACY), _iptables(Variant.NFT)
USERSPACE_LEGACY = _with_proxy(IPTABLES_LEGACY)
IPVS = KernelMode(
    name="ipvs",
    rows="ipvs",
    draws_first_endpoint=True,
    guest_modules=IPVS_MODULES,
    fewer=12,
    workers=2,
    deviations=IPVS_DEVIATIONS,
    open_dataplane=lambda settings: IpvsDataplane(node_settings=settings),
    damages={
        Disturbance.FLUSHED: [
            *((tool, "-t", table, "-F") for tool in _LEGACY_TOOLS for table in ("mangle", "nat", "filter")),
            ("ipvsadm", "-C"),
        ],
        Disturbance.CHAIN_FLUSHED: [(tool, "-t", "mangle", "-F", "POINTSMAN-IPVS-SERVICES") for tool in _LEGACY_TOOLS],
    },
)
MODES: Mapping[str, KernelMode] = {
    mode.name: mode for mode in (NFTABLES, USERSPACE, USERSPACE_LEGACY, IPTABLES_LEGACY, IPTABLES_NFT, IPVS)
}
"""By name."""
