# SPDX-License-Identifier: Apache-2.0
"""EnforcerConfiguration: kube-proxy's words wherever kube-proxy has one.

`mode`, `hostnameOverride`, `detectLocalMode`, `detectLocal`, `clusterCIDR`, `nodePortAddresses`, `nftables`,
`conntrack`, `healthzBindAddress` and `metricsBindAddress` mean what they mean in a KubeProxyConfiguration, with two
defaults of our own: the mode is nftables, and nftables.minSyncPeriod is 0s, because a sync here costs what changed.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import field

from pointsman_chassis.duration import Duration
from pointsman_chassis.logs import LogSettings
from pointsman_chassis.settings import Settings
from pointsman_chassis.tls import TransportSecurity
from pointsman_enforcer.dataplane.conntrack.sysctls import ConntrackSysctls
from pointsman_enforcer.dataplane.node_settings import DetectLocalMode, NodeSettings
from pointsman_enforcer.health.bind_address import parse_bind_address
from pointsman_model.names import Prefix, parse_prefix

KIND: Final = "EnforcerConfiguration"
HEALTHZ_PORT: Final = 10256
METRICS_PORT: Final = 10249
_INT_MAX: Final = 2**31 - 1


class DetectLocalSettings(Settings, frozen=True):
    """For the detect-local modes that look at interfaces."""

    bridge_interface: str = ""
    """BridgeInterface: pods send through this bridge."""
    interface_name_prefix: str = ""
    """InterfaceNamePrefix: pods send through interfaces whose names begin with this."""


class NftablesSettings(Settings, frozen=True):
    """The nftables mode."""

    masquerade_bit: int = 14
    """Bit of the packet mark, 0..31, that says "masquerade" between our chains. Others must leave it alone."""
    masquerade_all: bool = False
    """Masquerade everything sent to cluster IPs."""
    sync_period: Duration = Duration(30.0)
    """An update that waits longer than twice this makes the node unhealthy."""
    min_sync_period: Duration = Duration(0.0)
    """Least time between two syncs. Changes that come meanwhile are programmed together."""

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 <= self.masquerade_bit <= 31:
            raise ValueError("masqueradeBit: expected 0..31")
        if self.sync_period <= 0 or self.min_sync_period > self.sync_period:
            raise ValueError("syncPeriod: must be greater than 0s and not less than minSyncPeriod")


class ConntrackSettings(Settings, frozen=True):
    """The kernel's connection table, set at the start. 0, null and false leave alone what is there."""

    max_per_core: int | None = 32768
    """Entries for each core of the machine, up to 1048576 in all. The table is never made smaller."""
    min: int | None = 131072
    """Entries at least, whatever the number of cores; without effect when maxPerCore is 0."""
    tcp_established_timeout: Duration | None = Duration(24 * 3600.0)
    """How long an idle TCP connection is remembered."""
    tcp_close_wait_timeout: Duration | None = Duration(3600.0)
    """How long a half-closed TCP connection is remembered."""
    tcp_be_liberal: bool = False
    """Take TCP packets outside of the window for valid."""
    udp_timeout: Duration | None = Duration(0.0)
    """How long a UDP packet without an answer is remembered."""
    udp_stream_timeout: Duration | None = Duration(0.0)
    """How long an idle UDP flow with answers is remembered."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name, value in (("maxPerCore", self.max_per_core), ("min", self.min)):
            if value is not None and not 0 <= value <= _INT_MAX:
                raise ValueError(f"{name}: expected 0..{_INT_MAX}")

    def sysctls(self) -> ConntrackSysctls:
        """As the code that writes them takes it."""
        return ConntrackSysctls(
            maximum_per_core=self.max_per_core or 0,
            minimum=self.min or 0,
            tcp_established_timeout=int(self.tcp_established_timeout or 0),
            tcp_close_wait_timeout=int(self.tcp_close_wait_timeout or 0),
            tcp_be_liberal=self.tcp_be_liberal,
            udp_timeout=int(self.udp_timeout or 0),
            udp_stream_timeout=int(self.udp_stream_timeout or 0),
        )


class EnforcerConfiguration(Settings, frozen=True):
    """The whole file."""

    mode: Literal["nftables"] = "nftables"
    """How packets are moved. An unusable mode ends the process; there is no fallback."""
    hostname_override: str = ""
    """Name of the Node object; empty = environment variable NODE_NAME, else the host's name."""
    planner_addresses: tuple[str, ...] = ()
    """host:port of each planner. Not a Service address: it must work before any Service does."""
    state_directory: str = "/var/lib/pointsman"
    """Where the plan is kept, so that a rebooted node programs it before it has reached a planner."""
    detect_local_mode: Literal["ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"] = "ClusterCIDR"
    """How packets of pods are recognised."""
    detect_local: DetectLocalSettings = DetectLocalSettings()
    cluster_cidr: str = field(default="", name="clusterCIDR")
    """Pod addresses, one block for each family, separated by a comma. Empty = pods are not recognised."""
    node_port_addresses: tuple[str, ...] = ("primary",)
    """Blocks of local addresses that accept node ports, or `primary` alone: the node's first address of each family.
    Of a family that the list does not mention, all addresses accept them."""
    nftables: NftablesSettings = NftablesSettings()
    conntrack: ConntrackSettings = ConntrackSettings()
    healthz_bind_address: str = f"0.0.0.0:{HEALTHZ_PORT}"
    """Where /healthz and /livez are served; empty = nowhere."""
    metrics_bind_address: str = f"127.0.0.1:{METRICS_PORT}"
    """Where /metrics, /proxyMode, /configz and /statusz are served; empty = nowhere."""
    bind_address_hard_fail: bool = False
    """End the process when one of these addresses cannot be bound; else go on and say so."""
    security: TransportSecurity = TransportSecurity()
    """How planners are reached."""
    logging: LogSettings = LogSettings()

    def __post_init__(self) -> None:
        """Check what one field says of another."""
        self.node_settings()
        parse_bind_address(self.healthz_bind_address, HEALTHZ_PORT, "healthzBindAddress")
        parse_bind_address(self.metrics_bind_address, METRICS_PORT, "metricsBindAddress")

    def node_settings(self) -> NodeSettings:
        """The part the dataplane needs; ValueError says which field is wrong."""
        mode = DetectLocalMode(self.detect_local_mode)
        return NodeSettings(
            detect_local_mode=mode,
            cluster_cidrs=_cluster_cidrs(self.cluster_cidr),
            interface=_interface(mode, self.detect_local),
            masquerade_all=self.nftables.masquerade_all,
            node_port_addresses=_node_port_addresses(self.node_port_addresses),
        )


def _cluster_cidrs(text: str) -> tuple[Prefix, ...]:
    cidrs = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        try:
            cidrs.append(parse_prefix(part))
        except ValueError as error:
            raise ValueError(f"clusterCIDR: {error}") from error
    if len(cidrs) > len({prefix.family for prefix in cidrs}):
        raise ValueError("clusterCIDR: give at most one block for each family")
    return tuple(cidrs)


def _interface(mode: DetectLocalMode, settings: DetectLocalSettings) -> str:
    wanted = {
        DetectLocalMode.BRIDGE_INTERFACE: ("bridgeInterface", settings.bridge_interface),
        DetectLocalMode.INTERFACE_NAME_PREFIX: ("interfaceNamePrefix", settings.interface_name_prefix),
    }
    if mode not in wanted:
        return ""
    name, value = wanted[mode]
    if not value or len(value) > 15 or not value.isascii() or any(mark in value for mark in ' /:*"'):
        raise ValueError(f"detectLocal.{name}: {mode.value} needs the name of an interface, 1 to 15 characters")
    return value


def _node_port_addresses(texts: tuple[str, ...]) -> tuple[Prefix, ...] | None:
    if not texts:
        return None
    if "primary" in texts:
        if len(texts) > 1:
            raise ValueError("nodePortAddresses: primary must be the only entry")
        return None
    prefixes = []
    for index, text in enumerate(texts):
        try:
            prefixes.append(parse_prefix(text))
        except ValueError as error:
            raise ValueError(f"nodePortAddresses[{index}]: {error}") from error
    return tuple(prefixes)
