# SPDX-License-Identifier: Apache-2.0
"""KubeProxyConfiguration, kubeproxy.config.k8s.io/v1alpha1, as kube-proxy 1.36 reads it.

Every field is optional, and an empty value is no value: that is how kube-proxy's own defaulting sees it, and how tools
such as kubeadm write a file in which nothing is set. Fields of older releases that files
still have are known by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from msgspec import field

from pointsman_chassis.duration import Duration
from pointsman_chassis.settings import Settings
from pointsman_enforcer import validation
from pointsman_enforcer.dataplane.node_settings import DetectLocalMode
from pointsman_enforcer.settings import HEALTHZ_PORT, METRICS_PORT

API_VERSION: Final = "kubeproxy.config.k8s.io/v1alpha1"
KIND: Final = "KubeProxyConfiguration"
SYNC_PERIOD: Final = Duration(30.0)
MODES: Final = ("iptables", "ipvs", "nftables", "userspace")
"""On Linux; userspace until 1.25."""
_INT_MAX: Final = 2**31 - 1


class ClientConnection(Settings, frozen=True):
    """How kube-proxy reaches the API server."""

    kubeconfig: str | None = None
    accept_content_types: str | None = None
    content_type: str | None = None
    qps: float | None = None
    burst: int | None = None


class Periods(Settings, frozen=True):
    """What the section of every mode has."""

    sync_period: Duration | None = None
    min_sync_period: Duration | None = None

    def problems(self) -> Iterator[str]:
        """See `Settings.problems`."""
        yield from validation.sync_period_problems(self.sync_period or SYNC_PERIOD, self.min_sync_period or 0.0)


class Nftables(Periods, frozen=True):
    """The nftables mode."""

    masquerade_bit: int | None = None
    masquerade_all: bool | None = None

    def problems(self) -> Iterator[str]:
        """See `Settings.problems`."""
        yield from super().problems()
        yield from validation.range_problems("masqueradeBit", self.masquerade_bit or 0, 0, 31)


class Iptables(Nftables, frozen=True):
    """The iptables mode."""

    localhost_node_ports: bool | None = None


class Ipvs(Periods, frozen=True):
    """The IPVS mode."""

    scheduler: str | None = None
    exclude_cidrs: list[str] | None = field(default=None, name="excludeCIDRs")
    strict_arp: bool | None = field(default=None, name="strictARP")
    tcp_timeout: Duration | None = None
    tcp_fin_timeout: Duration | None = None
    udp_timeout: Duration | None = None

    def problems(self) -> Iterator[str]:
        """See `Settings.problems`."""
        yield from super().problems()
        yield from validation.block_problems("excludeCIDRs", self.exclude_cidrs or [])


class Winkernel(Settings, frozen=True):
    """Windows."""

    network_name: str | None = None
    source_vip: str | None = None
    enable_dsr: bool | None = field(default=None, name="enableDSR")
    root_hns_endpoint_name: str | None = None
    forward_health_check_vip: bool | None = None


class DetectLocal(Settings, frozen=True):
    """For the detect-local modes that look at interfaces."""

    bridge_interface: str | None = None
    interface_name_prefix: str | None = None


class Conntrack(Settings, frozen=True):
    """The connection table."""

    max: int | None = None
    """Until 1.14."""
    max_per_core: int | None = None
    min: int | None = None
    tcp_established_timeout: Duration | None = None
    tcp_close_wait_timeout: Duration | None = None
    tcp_be_liberal: bool | None = None
    udp_timeout: Duration | None = None
    udp_stream_timeout: Duration | None = None

    def problems(self) -> Iterator[str]:
        """See `Settings.problems`."""
        yield from validation.range_problems("maxPerCore", self.max_per_core or 0, 0, _INT_MAX)
        yield from validation.range_problems("min", self.min or 0, 0, _INT_MAX)


class TextOptions(Settings, frozen=True):
    """Of text and JSON logs."""

    split_stream: bool | None = None
    info_buffer_size: str | int | None = None


class LoggingOptions(Settings, frozen=True):
    """By format."""

    text: TextOptions | None = None
    json: TextOptions | None = None


class Logging(Settings, frozen=True):
    """Logs."""

    format: str | None = None
    flush_frequency: str | int | None = None
    verbosity: int | None = None
    vmodule: list[dict[str, Any]] | None = None
    options: LoggingOptions | None = None


class KubeProxyConfiguration(Settings, frozen=True):
    """The whole file."""

    feature_gates: dict[str, bool] | None = None
    client_connection: ClientConnection | None = None
    logging: Logging | None = None
    hostname_override: str | None = None
    bind_address: str | None = None
    healthz_bind_address: str | None = None
    metrics_bind_address: str | None = None
    bind_address_hard_fail: bool | None = None
    enable_profiling: bool | None = None
    show_hidden_metrics_for_version: str | None = None
    mode: str | None = None
    iptables: Iptables | None = None
    ipvs: Ipvs | None = None
    winkernel: Winkernel | None = None
    nftables: Nftables | None = None
    detect_local_mode: str | None = None
    detect_local: DetectLocal | None = None
    cluster_cidr: str | None = field(default=None, name="clusterCIDR")
    node_port_addresses: list[str] | None = None
    oom_score_adj: int | None = None
    conntrack: Conntrack | None = None
    config_sync_period: Duration | None = None
    port_range: str | None = None
    windows_run_as_service: bool | None = None
    metadata: dict[str, Any] | None = None
    """What kind writes, as if this were an object of the API."""
    udp_idle_timeout: Duration | None = None
    """Until 1.25."""
    resource_container: str | None = None
    """Until 1.22."""

    def problems(self) -> Iterator[str]:
        """See `Settings.problems`."""
        if self.mode and self.mode not in MODES:
            yield f"mode: {self.mode} is none of {', '.join(MODES)}, which are the modes of kube-proxy on Linux"
        yield from self._detect_local_problems()
        yield from validation.address_problems("bindAddress", self.bind_address or "0.0.0.0")  # noqa: S104 - not bound
        yield from validation.bind_address_problems("healthzBindAddress", self.healthz_bind_address or "", HEALTHZ_PORT)
        yield from validation.bind_address_problems("metricsBindAddress", self.metrics_bind_address or "", METRICS_PORT)
        yield from validation.cluster_cidr_problems(self.cluster_cidr or "")
        yield from validation.node_port_addresses_problems(self.node_port_addresses or [])
        yield from validation.range_problems("oomScoreAdj", self.oom_score_adj or 0, -1000, 1000)

    def _detect_local_problems(self) -> Iterator[str]:
        text, detect_local = self.detect_local_mode or DetectLocalMode.CLUSTER_CIDR.value, self.detect_local
        known = [mode.value for mode in DetectLocalMode]
        if text not in known:
            yield f"detectLocalMode: {text} is none of {', '.join(known)}"
            return
        yield from validation.detect_local_problems(
            DetectLocalMode(text),
            bridge_interface=(detect_local and detect_local.bridge_interface) or "",
            interface_name_prefix=(detect_local and detect_local.interface_name_prefix) or "",
        )
