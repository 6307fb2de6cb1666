# SPDX-License-Identifier: Apache-2.0
"""The sections of EnforcerConfiguration that belong to one mode, in kube-proxy's words where it has one.

As in kube-proxy, a mode reads its own section, and ipvs reads `masqueradeAll` and the variant of the tool from
`iptables` as well. The rules of userspace mode are those of nftables or iptables mode, and so are their settings.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from msgspec import field

from pointsman_chassis.duration import Duration
from pointsman_chassis.settings import Settings
from pointsman_enforcer import validation

ModeName = Literal["nftables", "iptables", "ipvs", "userspace", "auto"]
VariantName = Literal["auto", "legacy", "nft"]


class PeriodSettings(Settings, frozen=True):
    """What the section of every mode has."""

    sync_period: Duration = Duration(30.0)
    """An update that waits longer than twice this makes the node unhealthy."""
    min_sync_period: Duration = Duration(0.0)
    """Least time between two syncs. Changes that come meanwhile are programmed together."""

    def problems(self) -> Iterator[str]:
        """See `Settings.problems`."""
        yield from validation.sync_period_problems(self.sync_period, self.min_sync_period)


class NftablesSettings(PeriodSettings, frozen=True):
    """The nftables mode."""

    masquerade_bit: int = 14
    """Bit of the packet mark, 0..31, that says "masquerade" between our chains. Others must leave it alone."""
    masquerade_all: bool = False
    """Masquerade everything sent to cluster IPs."""

    def problems(self) -> Iterator[str]:
        """See `Settings.problems`."""
        yield from super().problems()
        yield from validation.range_problems("masqueradeBit", self.masquerade_bit, 0, 31)


class IptablesSettings(NftablesSettings, frozen=True):
    """The iptables mode."""

    min_sync_period: Duration = Duration(1.0)
    """Least time between two syncs, with kube-proxy's default: the legacy tool copies a whole table for each change."""
    localhost_node_ports: bool = True
    """Node ports answer on 127.0.0.1, where nodePortAddresses includes it."""
    variant: VariantName = "auto"
    """Which of the two programs called iptables; auto = the one this host uses. kube-proxy has no such field."""


class IpvsSettings(PeriodSettings, frozen=True):
    """The IPVS mode."""

    scheduler: str = ""
    """A scheduler of the kernel, rr for example; empty = rr, or wrr where endpoints have weights."""
    scheduler_flags: tuple[Literal["mh-fallback", "mh-port", "sh-fallback", "sh-port"], ...] = ()
    """Of the schedulers mh and sh, in ipvsadm's words. kube-proxy has no such field."""
    exclude_cidrs: tuple[str, ...] = field(default=(), name="excludeCIDRs")
    """Virtual servers of others in these blocks are never adopted, not even at the address and port of a Service of
    ours. Elsewhere, too, those that are not ours are not touched."""
    strict_arp: bool = field(default=False, name="strictARP")
    """Sets arp_ignore and arp_announce. Nothing of ours needs it: no address is put on a device here."""
    tcp_timeout: Duration = Duration(0.0)
    """How long IPVS keeps an idle TCP connection; 0s leaves alone what the kernel has. Whole seconds, as below."""
    tcp_fin_timeout: Duration = Duration(0.0)
    """The same of one that has seen a FIN."""
    udp_timeout: Duration = Duration(0.0)
    """The same of UDP."""

    def problems(self) -> Iterator[str]:
        """See `Settings.problems`."""
        yield from super().problems()
        yield from validation.scheduler_problems("scheduler", self.scheduler)
        yield from validation.block_problems("excludeCIDRs", self.exclude_cidrs)
        timeouts = (("tcpTimeout", self.tcp_timeout), ("tcpFinTimeout", self.tcp_fin_timeout))
        for name, value in (*timeouts, ("udpTimeout", self.udp_timeout)):
            yield from validation.ipvs_timeout_problems(name, value)


class UserspaceSettings(PeriodSettings, frozen=True):
    """The userspace mode, which kube-proxy had until 1.25."""

    redirect: Literal["nftables", "iptables", "none"] = "nftables"
    """nftables, iptables: rules of that mode lead to the proxy. none: no rules, no privilege; the proxy listens at the
    Services' addresses themselves, which must be local in this network namespace, or at those given in `addresses`."""
    addresses: dict[str, str] = field(default_factory=dict)
    """With redirect none: the local address to listen at, by the address of a Service; an empty key is for node ports.
    Without an entry a Service's own address is taken, and for node ports the node's primary one."""
    udp_idle_timeout: Duration = Duration(0.25)
    """A UDP flow ends after so long a silence."""
    tcp_idle_timeout: Duration = Duration(0.0)
    """A TCP connection is reset after so long a silence; 0s = never, as in kube-proxy. Peers that are gone without a
    word are found by keepalives after two minutes; one that has ended its side may be silent for an hour."""
    drain_timeout: Duration = Duration(5.0)
    """When the process ends, rules first lead new connections to endpoints themselves (not with redirect none); those
    that it has may go on for so long."""
    connections_max: int = 65_536
    """TCP connections at a time; each costs two descriptors. Never more than the descriptors of the process allow."""
    flows_max: int = 16_384
    """UDP flows at a time; each costs one."""

    def problems(self) -> Iterator[str]:
        """See `Settings.problems`."""
        yield from super().problems()
        if self.addresses and self.redirect != "none":
            yield "addresses: has a meaning with redirect none only"
        for key, value in self.addresses.items():
            yield from validation.place_problems("addresses", key, value)
        yield from validation.not_negative_problems("drainTimeout", self.drain_timeout)
        if self.udp_idle_timeout <= 0:
            yield "udpIdleTimeout: must be greater than 0s"
        yield from validation.range_problems("connectionsMax", self.connections_max, 1, 1 << 20)
        yield from validation.range_problems("flowsMax", self.flows_max, 1, 1 << 20)
