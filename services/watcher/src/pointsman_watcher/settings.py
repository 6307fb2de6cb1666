# SPDX-License-Identifier: Apache-2.0
"""`WatcherConfiguration`: what an operator can say. Read once at the start; docs/configuration in DESIGN.md."""

from typing import Final, Literal

from pointsman_chassis.guard import CallLimits
from pointsman_chassis.logs import LogSettings
from pointsman_chassis.settings import Duration, Settings
from pointsman_chassis.tls import TransportSecurity

KIND: Final = "WatcherConfiguration"


class KubernetesSettings(Settings, frozen=True, kw_only=True):
    """How to find, ask and follow the API server."""

    kubeconfig: str = ""
    """Path of a kubeconfig, several joined by `:`. Empty: the service account of the pod; outside a pod $KUBECONFIG or
    ~/.kube/config."""
    context: str = ""
    """Context of the kubeconfig; empty: its current context."""
    initial_list: Literal["watchList", "chunkedList"] = "watchList"
    """How the first state is fetched. `watchList` streams it, which spares the API server from building lists in
    memory, and falls back to `chunkedList` by itself where the server cannot do it."""
    page_size: int = 500
    """Objects in one page of a chunked list; the value kubectl and client-go use."""
    page_bytes_max: int = 64 << 20
    """Largest page that is accepted. A larger one is asked for again with fewer objects."""
    watch_line_bytes_max: int = 8 << 20
    """Largest watch event that is accepted. etcd stores no object above 1.5 MiB; a longer line is skipped and
    reported."""
    connect_timeout: Duration = Duration(10)
    """Until a connection with its TLS handshake stands and the answer has begun."""
    watch_duration_min: Duration = Duration(300)
    """A watch asks the server to end it after a random time between this and `watchDurationMax`, as client-go does,
    so that watches spread over API servers again after one of them was restarted."""
    watch_duration_max: Duration = Duration(600)
    """See `watchDurationMin`."""
    stall_timeout: Duration = Duration(120)
    """A watch that brings no byte for so long is dead and is opened again. API servers send a bookmark about once a
    minute (at most 75 s apart), so a healthy watch is never that silent."""
    backoff_initial: Duration = Duration(0.2)
    """First delay after a failure; it doubles, with jitter."""
    backoff_max: Duration = Duration(30)
    """Longest delay between attempts; a Retry-After of the server may ask for more."""
    absent_probe_interval: Duration = Duration(600)
    """How often to look whether the ServiceCIDR API, absent so far, is there now."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.page_size < 1:
            raise ValueError("pageSize must be at least 1")
        if self.page_bytes_max < 1 << 20 or self.watch_line_bytes_max < 1 << 16:
            raise ValueError("pageBytesMax must be at least 1 MiB and watchLineBytesMax at least 64 KiB")
        if not 0 < self.watch_duration_min <= self.watch_duration_max:
            raise ValueError("watchDurationMin must be above 0 and at most watchDurationMax")
        if min(self.connect_timeout, self.stall_timeout, self.backoff_initial, self.absent_probe_interval) <= 0:
            raise ValueError("connectTimeout, stallTimeout, backoffInitial and absentProbeInterval must be above 0")
        if self.backoff_max < self.backoff_initial:
            raise ValueError("backoffMax must be at least backoffInitial")


class StreamSettings(Settings, frozen=True, kw_only=True):
    """How planners are served."""

    subscribers_max: int = 64
    """Streams served at once. Each planner keeps one; more than a few dozen is a misconfiguration, and each costs a
    snapshot."""
    heartbeat_interval: Duration = Duration(5)
    """Longest silence on a stream. Planners reconnect after three of them."""
    change_log_entries_max: int = 100_000
    """Changes remembered for resuming readers; about 200 bytes each. A reader further behind gets a snapshot."""
    pending_keys_max: int = 100_000
    """Changed objects that may wait for a slow reader, beyond the number of objects that exist."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if min(self.subscribers_max, self.change_log_entries_max, self.pending_keys_max) < 1:
            raise ValueError("subscribersMax, changeLogEntriesMax and pendingKeysMax must be at least 1")
        if self.heartbeat_interval <= 0:
            raise ValueError("heartbeatInterval must be above 0")


class WatcherSettings(Settings, frozen=True, kw_only=True):
    """The whole configuration of a watcher."""

    listen_address: str = "0.0.0.0:7443"
    """Where planners connect: `host:port`, `[v6]:port` or `unix:path`."""
    metrics_bind_address: str = "127.0.0.1:10251"
    """Where `/metrics`, `/healthz`, `/livez`, `/readyz` and `/configz` are served; empty: nowhere."""
    security: TransportSecurity = TransportSecurity()
    """TLS of the stream to planners, or `insecure: true` for plaintext within the machine."""
    planners: tuple[str, ...] = ("pointsman-planner",)
    """Who may follow the cluster: names of which a planner's certificate has one, as common name or alternative."""
    limits: CallLimits = CallLimits()
    """How much callers may ask for."""
    reflection: bool = False
    """Whether the gRPC server answers reflection, for debugging with grpcurl."""
    kubernetes: KubernetesSettings = KubernetesSettings()
    """The API server."""
    stream: StreamSettings = StreamSettings()
    """The planners."""
    logging: LogSettings = LogSettings()
    """Log level and form."""
