# SPDX-License-Identifier: Apache-2.0
"""What the HTTP servers count."""

from __future__ import annotations

from typing import Final

from pointsman_chassis.metrics import Registry
from pointsman_enforcer.core.local_endpoints import EXTERNAL, INTERNAL, Gap, GapCount
from pointsman_model.names import Family

_FAMILY_NAMES: Final = {Family.IPV4: "IPv4", Family.IPV6: "IPv6"}


class ServingMetrics:
    """Made once by the composition root."""

    def __init__(self, registry: Registry) -> None:
        self._no_local_endpoints = registry.gauge(
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
            "Service ports whose traffic policy is Local and that have endpoints on other nodes only",
            ("traffic_policy", "ip_family"),
        )
        self.bind_failures = registry.counter(
            "pointsman_enforcer_bind_failures_total", "Times an address to serve pages on was not to be had", ("field",)
        )
        self.health_check_ports = registry.gauge(
            "pointsman_enforcer_health_check_listeners", "Sockets of health check node ports", ("state",)
        )
        self.health_check_bind_failures = registry.counter(
            "pointsman_enforcer_health_check_bind_failures_total",
            "Times a socket of a health check node port was not to be had",
        )

    def gaps(self, counts: GapCount) -> None:
        """How many service ports lack local endpoints."""
        for policy in (INTERNAL, EXTERNAL):
            for family, name in _FAMILY_NAMES.items():
                self._no_local_endpoints.labels(policy, name).set(counts.count(Gap(policy, family)))
