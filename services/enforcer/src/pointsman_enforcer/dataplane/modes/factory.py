# SPDX-License-Identifier: Apache-2.0
"""Makes the dataplane of a mode from the configuration; only that mode's code is imported.

A mode that cannot run here is an error that says why, and never another mode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from pointsman_chassis.errors import UnsupportedError
from pointsman_enforcer.dataplane.base import Dataplane, ProxyMode
from pointsman_enforcer.dataplane.reconciler import ReconcilerLimits
from pointsman_enforcer.settings import EnforcerConfiguration
from pointsman_model.names import parse_address, parse_prefix

_SERVICES_PER_RESTORE: Final = 2500
"""Each iptables-restore costs the whole table, so a cold start takes few of them."""


def make_dataplane(config: EnforcerConfiguration) -> Dataplane[Any]:
    """The dataplane of the configured mode, which is not `auto` any more: see `choice`.

    Raises:
        UnsupportedError: this node cannot run the mode.
    """
    mode = ProxyMode(config.mode)
    try:
        return _MAKERS[mode](config)
    except OSError as error:
        raise UnsupportedError(f"{mode.value} mode does not work here: {error}") from error


def has_conntrack(config: EnforcerConfiguration) -> bool:
    """Whether rules of ours have entries in the kernel's connection table: not where there are no rules."""
    return config.mode != ProxyMode.USERSPACE.value or config.userspace.redirect != "none"


def reconciler_limits(mode: ProxyMode) -> ReconcilerLimits:
    """What suits the backend's transactions."""
    if mode is ProxyMode.IPTABLES:
        return ReconcilerLimits(services_per_change=_SERVICES_PER_RESTORE)
    return ReconcilerLimits()


def _nftables(config: EnforcerConfiguration) -> Dataplane[Any]:
    from pointsman_enforcer.dataplane.nftables import support  # noqa: PLC0415 - see the module
    from pointsman_enforcer.dataplane.nftables.backend import NftablesDataplane  # noqa: PLC0415 - see the module

    support.probe()
    return NftablesDataplane(node_settings=config.node_settings(), masquerade_bit=config.nftables.masquerade_bit)


def _iptables(config: EnforcerConfiguration) -> Dataplane[Any]:
    from pointsman_enforcer.dataplane.iptables.backend import IptablesDataplane  # noqa: PLC0415 - see the module
    from pointsman_enforcer.dataplane.modes.variant import variant_of  # noqa: PLC0415 - see the module

    return IptablesDataplane(
        node_settings=config.node_settings(),
        variant=variant_of(config.iptables.variant),
        masquerade_bit=config.iptables.masquerade_bit,
        localhost_node_ports=config.iptables.localhost_node_ports,
    )


def _ipvs(config: EnforcerConfiguration) -> Dataplane[Any]:
    from pointsman_enforcer.dataplane.ipvs.backend import IpvsDataplane  # noqa: PLC0415 - see the module
    from pointsman_enforcer.dataplane.ipvs.genetlink.channel import IpvsError  # noqa: PLC0415 - see the module
    from pointsman_enforcer.dataplane.ipvs.genetlink.model import ServiceFlags, Timeouts  # noqa: PLC0415 - the same
    from pointsman_enforcer.dataplane.modes.variant import variant_of  # noqa: PLC0415 - see the module

    ipvs = config.ipvs
    flags = ServiceFlags.NONE
    for name in ipvs.scheduler_flags:
        flags |= ServiceFlags[name.upper().replace("-", "_")]
    try:
        return IpvsDataplane(
            node_settings=config.node_settings(),
            variant=variant_of(config.iptables.variant),
            scheduler=ipvs.scheduler,
            flags=flags,
            timeouts=Timeouts(int(ipvs.tcp_timeout), int(ipvs.tcp_fin_timeout), int(ipvs.udp_timeout)),
            exclude_cidrs=tuple(map(parse_prefix, ipvs.exclude_cidrs)),
            strict_arp=ipvs.strict_arp,
        )
    except IpvsError as error:
        raise UnsupportedError(f"ipvs mode does not work here: {error}; it needs the kernel's ip_vs") from error


def _userspace(config: EnforcerConfiguration) -> Dataplane[Any]:
    from pointsman_enforcer.dataplane.userspace.limits import ProxyLimits  # noqa: PLC0415 - see the module

    section = config.userspace
    limits = ProxyLimits(
        udp_idle_seconds=section.udp_idle_timeout,
        tcp_idle_seconds=section.tcp_idle_timeout,
        connections_max=section.connections_max,
        flows_max=section.flows_max,
    )
    if section.redirect == "none":
        from pointsman_enforcer.dataplane.userspace.rootless import RootlessDataplane  # noqa: PLC0415 - see the module

        places = {parse_address(key) if key else b"": parse_address(value) for key, value in section.addresses.items()}
        return RootlessDataplane(node_settings=config.node_settings(), places=places, limits=limits)
    from pointsman_enforcer.dataplane.modes.variant import variant_of  # noqa: PLC0415 - see the module
    from pointsman_enforcer.dataplane.userspace.backend import UserspaceDataplane  # noqa: PLC0415 - see the module

    by_nftables = section.redirect == "nftables"
    if by_nftables:
        from pointsman_enforcer.dataplane.nftables import support  # noqa: PLC0415 - see the module

        support.probe()
    return UserspaceDataplane(
        node_settings=config.node_settings(),
        masquerade_bit=(config.nftables if by_nftables else config.iptables).masquerade_bit,
        variant=None if by_nftables else variant_of(config.iptables.variant),
        limits=limits,
    )


_MAKERS: Final[Mapping[ProxyMode, Callable[[EnforcerConfiguration], Dataplane[Any]]]] = MappingProxyType(
    {
        ProxyMode.NFTABLES: _nftables,
        ProxyMode.IPTABLES: _iptables,
        ProxyMode.IPVS: _ipvs,
        ProxyMode.USERSPACE: _userspace,
    }
)
