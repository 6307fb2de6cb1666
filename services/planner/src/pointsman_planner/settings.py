# SPDX-License-Identifier: Apache-2.0
"""The planner's configuration: kind PlannerConfiguration, read once at the start."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from pointsman_chassis.duration import Duration
from pointsman_chassis.guard import CallLimits
from pointsman_chassis.logs import LogSettings
from pointsman_chassis.settings import Settings, settings_as_data
from pointsman_chassis.tls import TransportSecurity, is_local
from pointsman_planner.access.settings import AccessSettings
from pointsman_planner.store.connection import RedisSettings, shown_url

KIND = "PlannerConfiguration"
_HOST_AND_PORT = re.compile(r"[A-Za-z0-9._\-\[\]:%]{1,300}:[0-9]{1,5}")


class MassDeleteGuardSettings(Settings, frozen=True, kw_only=True):
    """When a mass deletion is held, and for how long."""

    share: float = 0.5
    """Largest share, 0..1, of Services or of EndpointSlices that may go at once; 1 switches the guard off."""
    minimum: int = 20
    """Fewer removals than this are never held."""
    hold_for: Duration = Duration(60)
    """How long the watcher must go on saying so before it is believed: time for an operator to look."""

    def __post_init__(self) -> None:
        """Refuse values that would hold everything or nothing by accident."""
        if not 0 < self.share <= 1:
            raise ValueError(f"share: {self.share} is not within 0 (excluded) and 1")
        if self.minimum < 1:
            raise ValueError(f"minimum: {self.minimum} is not positive")
        if self.hold_for < 0:
            raise ValueError(f"holdFor: {self.hold_for} is negative")


class OverrideSettings(Settings, frozen=True, kw_only=True):
    """Overrides of external controllers."""

    on_empty_store: Literal["restore", "forget"] = "restore"
    """What becomes of them when the store comes back empty, replaced or set back: planners write back what they hold,
    or let go of it too. `memory://` is empty after each start, and is always given back what `stateFile` kept."""
    state_file: str = ""
    """Where this planner keeps them for its next start, before and without the store; empty = nowhere."""


class ShardingSettings(Settings, frozen=True, kw_only=True):
    """How planners share the nodes."""

    lease: Duration = Duration(10)
    """A planner not heard of for so long is dead, and its nodes belong to others; renewed three times in it."""
    nodes_per_second: float = 20.0
    """Nodes that are sent to another planner, after one joined."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if not 0.2 <= self.lease <= 600:
            raise ValueError(f"lease: {self.lease} is not within 200ms and 10m")
        if not 0.1 <= self.nodes_per_second <= 10_000:
            raise ValueError(f"nodesPerSecond: {self.nodes_per_second} is not within 0.1 and 10000")


class AdmissionSettings(Settings, frozen=True, kw_only=True):
    """How many nodes are brought up to date at once; the others keep what they have and wait."""

    slots: int = 16
    """So many at once."""
    waiting_max: int = 1_000
    """So many wait; more are told to come back."""
    free_buckets: int = 64
    """A node of whose 1,024 buckets no more than this differ needs no slot."""
    slot_timeout: Duration = Duration(30)
    """A node that needs longer goes on without its slot."""

    def __post_init__(self) -> None:
        """Refuse what would let nobody in."""
        if self.slots < 1 or self.waiting_max < 0 or self.free_buckets < 0:
            raise ValueError("slots must be at least 1, waitingMax and freeBuckets at least 0")
        if self.slot_timeout <= 0:
            raise ValueError(f"slotTimeout: {self.slot_timeout} is not positive")


class ConsoleSettings(Settings, frozen=True, kw_only=True):
    """The read-only web page."""

    listen_address: str = ""
    """`host:port` of a loopback address, 127.0.0.1:9404 by custom; reached with `kubectl port-forward`. Empty = off."""

    def __post_init__(self) -> None:
        """Refuse to show a cluster to whoever asks."""
        if not self.listen_address:
            return
        if _HOST_AND_PORT.fullmatch(self.listen_address) is None:
            raise ValueError(f"listenAddress: {self.listen_address} is not host:port")
        if not is_local(self.listen_address):
            raise ValueError(
                f"listenAddress: the console knows nobody, so it is for loopback addresses, not for "
                f"{self.listen_address}; reach 127.0.0.1:9404 with kubectl port-forward"
            )


class PlannerSettings(Settings, frozen=True, kw_only=True):
    """PlannerConfiguration."""

    watcher_addresses: tuple[str, ...] = ("127.0.0.1:7401",)
    """`host:port` of the watchers, any of which will do; tried in turn."""
    listen_address: str = "127.0.0.1:7402"
    """Where enforcers and controllers connect (gRPC)."""
    advertise_address: str = ""
    """`host:port` where enforcers reach this planner; empty = listenAddress, with $POD_IP if that is 0.0.0.0."""
    drain_period: Duration = Duration(10)
    """Before it ends, a planner gives its nodes to the others, spread over most of this; 0s = ends at once."""
    sharding: ShardingSettings = ShardingSettings()
    """Leases, and the pace of moves."""
    admission: AdmissionSettings = AdmissionSettings()
    """Nodes that reconnect all at once."""
    metrics_bind_address: str = "127.0.0.1:9402"
    """Where /metrics, /healthz, /readyz, /statusz and /configz are served; empty = nowhere."""
    console: ConsoleSettings = ConsoleSettings()
    """A web page for operators."""
    redis_url: str = msgspec.field(default="memory://", name="redisURL")
    """What planners share: `memory://` (this process alone), `redis://host:port/db`, `rediss://`, `unix:///path?db=0`,
    `redis+sentinel://host,host/name/db`, `redis+cluster://host,host`."""
    redis_key_prefix: str = "pointsman:"
    """Begins every key that is written there; clusters that share a Redis need one each."""
    redis: RedisSettings = RedisSettings()
    """Logging in to Redis, its certificates and timeouts."""
    overrides: OverrideSettings = OverrideSettings()
    """How overrides outlive the store and this process."""
    planner_id: str = msgspec.field(default="", name="plannerID")
    """Name of this process in logs and to enforcers; empty = host name."""
    priority_namespaces: tuple[str, ...] = ("kube-system",)
    """Namespaces whose services are programmed first on a cold node, after default/kubernetes and cluster DNS."""
    heartbeat_interval: Duration = Duration(5)
    """Longest silence of a healthy stream; either side closes it after three."""
    plan_cache_bytes: int = 256 << 20
    """Budget for encoded plans; what does not fit is encoded again when needed."""
    mass_delete_guard: MassDeleteGuardSettings = MassDeleteGuardSettings()
    """Protection against a snapshot that lost its data."""
    older_state_hold_for: Duration = Duration(60)
    """How long a watcher that has read less than what is held is not believed, if no other has read more."""
    reflection: bool = True
    """gRPC server reflection, for grpcurl and its like."""
    security: TransportSecurity = TransportSecurity()
    """Certificates of this process, or `insecure: true`."""
    access: AccessSettings = AccessSettings()
    """Who may ask for what."""
    limits: CallLimits = CallLimits()
    """How much callers may ask for."""
    logging: LogSettings = LogSettings()
    """Log level and format."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if not self.watcher_addresses:
            raise ValueError("watcherAddresses: at least one watcher is needed")
        if self.security.insecure:
            remote = [each for each in (*self.watcher_addresses, self.listen_address) if not is_local(each)]
            if remote:
                raise ValueError(f"security: insecure: true is for loopback and unix sockets, not for {remote[0]}")
        if self.advertise_address and _HOST_AND_PORT.fullmatch(self.advertise_address) is None:
            raise ValueError(f"advertiseAddress: {self.advertise_address} is not host:port")
        if not 0 <= self.drain_period <= 600:
            raise ValueError(f"drainPeriod: {self.drain_period} is longer than 10m")
        if not 0.05 <= self.heartbeat_interval <= 300:
            raise ValueError(f"heartbeatInterval: {self.heartbeat_interval} is not within 50ms and 5m")
        if self.older_state_hold_for < 0:
            raise ValueError(f"olderStateHoldFor: {self.older_state_hold_for} is negative")
        if self.plan_cache_bytes < 1 << 20:
            raise ValueError(f"planCacheBytes: {self.plan_cache_bytes} is less than 1 MiB")


def shown_settings(settings: PlannerSettings) -> dict[str, Any]:
    """The configuration as data for logs and /configz, without the password that a URL may carry."""
    return settings_as_data(msgspec.structs.replace(settings, redis_url=shown_url(settings.redis_url)))
