# SPDX-License-Identifier: Apache-2.0
"""EnforcerConfiguration: kube-proxy's words wherever kube-proxy has one.

Every field of a KubeProxyConfiguration (v1alpha1) that means something here has its name, its meaning and its default,
with three defaults of our own: the mode is nftables, nftables.minSyncPeriod is 0s because a sync there costs what
changed, and logs are JSON. What has no meaning here is not accepted; `pointsman-enforcer --convert-config` says why.
The sections of the modes stand in `mode_settings`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from msgspec import field

from pointsman_chassis.duration import Duration
from pointsman_chassis.logs import LogSettings
from pointsman_chassis.settings import Settings
from pointsman_chassis.tls import TransportSecurity
from pointsman_enforcer import validation
from pointsman_enforcer.dataplane.conntrack.sysctls import ConntrackSysctls
from pointsman_enforcer.dataplane.node_settings import DetectLocalMode, NodeSettings
from pointsman_enforcer.mode_settings import (
    IptablesSettings,
    IpvsSettings,
    ModeName,
    NftablesSettings,
    PeriodSettings,
    UserspaceSettings,
)
from pointsman_model.names import parse_address, parse_prefix

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

    def problems(self) -> Iterator[str]:
        """See `Settings.problems`."""
        yield from validation.range_problems("maxPerCore", self.max_per_core or 0, 0, _INT_MAX)
        yield from validation.range_problems("min", self.min or 0, 0, _INT_MAX)

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


class PlannerLookupSettings(Settings, frozen=True):
    """Finding planners in the slices of their Service, when no address that is known leads to one."""

    kubeconfig: str = ""
    """File whose current context says where the API server is and who we are; the one of the node's kubelet or of
    kube-proxy will do. Credential plugins are not run."""
    api_servers: tuple[str, ...] = ()
    """host:port of API servers, tried in order, in the place of the server of the kubeconfig; without a kubeconfig they
    are asked with the service account of the pod. Not the address of the Service `kubernetes`: that is programmed
    by us. Without this and a kubeconfig nothing is looked up."""
    namespace: str = "pointsman-system"
    """Namespace of the planners' Service."""
    service: str = "pointsman-planner"
    """Name of the planners' Service."""
    port: str = "grpc"
    """Name of its port."""

    @property
    def is_possible(self) -> bool:
        """Whether it is known whom to ask."""
        return bool(self.kubeconfig or self.api_servers)

    def problems(self) -> Iterator[str]:
        """See `Settings.problems`."""
        yield from validation.api_server_problems(self.api_servers)
        for name, text in (("namespace", self.namespace), ("service", self.service)):
            yield from validation.object_name_problems(name, text)


class EnforcerConfiguration(Settings, frozen=True):
    """The whole file."""

    mode: ModeName = "nftables"
    """How packets are moved. An unusable mode ends the process; there is no fallback. auto = the first of nftables,
    iptables, ipvs and userspace that this host can run, as `pointsman-enforcer probe` says."""
    hostname_override: str = ""
    """Name of the Node object; empty = environment variable NODE_NAME, else the host's name."""
    bind_address: str = "0.0.0.0"  # noqa: S104 - kube-proxy's default; nothing is bound to it
    """A specific address takes the place of the node's primary address of its family, for nodePortAddresses
    `primary`; 0.0.0.0 and :: leave it to the Node object. Nothing is bound to it."""
    planner_addresses: tuple[str, ...] = ()
    """host:port of each planner, or dns:host:port for all addresses behind a name. Not a Service's address or name: it
    must work before any Service does. Planners tell of each other, so a few of them are enough."""
    planner_lookup: PlannerLookupSettings = PlannerLookupSettings()
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
    iptables: IptablesSettings = IptablesSettings()
    ipvs: IpvsSettings = IpvsSettings()
    userspace: UserspaceSettings = UserspaceSettings()
    remove_kube_proxy_rules: bool = True
    """Remove what a kube-proxy left in the kernel, in whatever mode, once everything a planner says is programmed and
    verified. What our own other modes left always goes, and as early."""
    conntrack: ConntrackSettings = ConntrackSettings()
    verify_elements_per_second: int = 2000
    """Kernel objects that are read back each second after they were programmed, in quiet moments, until all that
    changed is verified; 0 = nothing is."""
    healthz_bind_address: str = f"0.0.0.0:{HEALTHZ_PORT}"
    """Where /healthz and /livez are served; without a port that is 10256; empty = nowhere. 0.0.0.0 and :: both stand
    for all addresses of both families, here and below."""
    metrics_bind_address: str = f"127.0.0.1:{METRICS_PORT}"
    """Where /metrics, /proxyMode, /configz and /statusz are served; without a port that is 10249; empty = nowhere."""
    bind_address_hard_fail: bool = False
    """End the process when one of these addresses cannot be bound; else say so and try again every 5 seconds."""
    oom_score_adj: int = -999
    """How unlikely the kernel is to end this process when memory runs out, -1000..1000. A process without
    CAP_SYS_RESOURCE cannot lower it, says so and goes on."""
    security: TransportSecurity = TransportSecurity()
    """How planners are reached."""
    logging: LogSettings = LogSettings()

    def problems(self) -> Iterator[str]:
        """See `Settings.problems`."""
        detect_local = self.detect_local
        yield from validation.address_problems("bindAddress", self.bind_address)
        yield from validation.planner_address_problems(self.planner_addresses)
        if self.security.insecure:
            yield from validation.plaintext_problems(self.planner_addresses)
        yield from validation.cluster_cidr_problems(self.cluster_cidr)
        yield from validation.detect_local_problems(
            DetectLocalMode(self.detect_local_mode),
            bridge_interface=detect_local.bridge_interface,
            interface_name_prefix=detect_local.interface_name_prefix,
        )
        yield from validation.node_port_addresses_problems(self.node_port_addresses)
        yield from validation.bind_address_problems("healthzBindAddress", self.healthz_bind_address, HEALTHZ_PORT)
        yield from validation.bind_address_problems("metricsBindAddress", self.metrics_bind_address, METRICS_PORT)
        yield from validation.range_problems("verifyElementsPerSecond", self.verify_elements_per_second, 0, 1_000_000)
        yield from validation.range_problems("oomScoreAdj", self.oom_score_adj, -1000, 1000)

    @property
    def periods(self) -> PeriodSettings:
        """Of the configured mode."""
        sections: dict[str, PeriodSettings] = {
            "iptables": self.iptables,
            "ipvs": self.ipvs,
            "userspace": self.userspace,
        }
        return sections.get(self.mode, self.nftables)

    @property
    def _uses_iptables(self) -> bool:
        return self.mode in ("iptables", "ipvs") or (self.mode == "userspace" and self.userspace.redirect == "iptables")

    def node_settings(self) -> NodeSettings:
        """The part the dataplane needs."""
        mode = DetectLocalMode(self.detect_local_mode)
        interfaces = {
            DetectLocalMode.BRIDGE_INTERFACE: self.detect_local.bridge_interface,
            DetectLocalMode.INTERFACE_NAME_PREFIX: self.detect_local.interface_name_prefix,
        }
        texts = self.node_port_addresses
        is_primary = not texts or validation.PRIMARY in texts
        return NodeSettings(
            detect_local_mode=mode,
            cluster_cidrs=tuple(map(parse_prefix, validation.split_cidrs(self.cluster_cidr))),
            interface=interfaces.get(mode, ""),
            masquerade_all=(self.iptables if self._uses_iptables else self.nftables).masquerade_all,
            node_port_addresses=None if is_primary else tuple(map(parse_prefix, texts)),
            primary_address=_specific(parse_address(self.bind_address)),
        )


def _specific(address: bytes) -> bytes | None:
    """The address, or None for one that stands for all."""
    return address if any(address) else None
