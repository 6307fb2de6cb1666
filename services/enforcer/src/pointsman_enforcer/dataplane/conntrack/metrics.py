# SPDX-License-Identifier: Apache-2.0
"""What ending stale flows counts: kube-proxy's two names, and two of our own."""

from __future__ import annotations

from typing import Final

from pointsman_chassis.metrics import Registry

_BUCKETS: Final = tuple(0.001 * 2**exponent for exponent in range(15))
_FAMILY_NAMES: Final = {4: "IPv4", 6: "IPv6"}


class ConntrackMetrics:
    """Made once by the composition root."""

    def __init__(self, registry: Registry) -> None:
        self.duration = registry.histogram(
            "kubeproxy_conntrack_reconciler_sync_duration_seconds", "One look for stale flows", ("ip_family",),
            buckets=_BUCKETS,
        )  # fmt: skip
        self.deleted = registry.counter(
            "kubeproxy_conntrack_reconciler_deleted_entries_total", "Stale flows ended", ("ip_family",)
        )
        for name in _FAMILY_NAMES.values():
            self.duration.labels(name)
            self.deleted.labels(name)
        self.attempts = registry.counter(
            "pointsman_enforcer_conntrack_attempts_ended_total",
            "Connection attempts let through while rules were missing, ended so that they find their Service",
        )
        self.failures = registry.counter(
            "pointsman_enforcer_conntrack_failures_total", "Times the connection table could not be read or changed"
        )
        self.is_degraded = registry.gauge(
            "pointsman_enforcer_conntrack_degraded", "1 while stale UDP and SCTP flows cannot be ended"
        )

    def looked(self, family: int, *, seconds: float, ended: int) -> None:
        """One family's share of a reconcile."""
        name = _FAMILY_NAMES[family]
        self.duration.labels(name).observe(seconds)
        self.deleted.labels(name).inc(ended)
