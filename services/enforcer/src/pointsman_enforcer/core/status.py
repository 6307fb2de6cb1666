# SPDX-License-Identifier: Apache-2.0
"""Whether this node is healthy, by kube-proxy's rules.

A family is unhealthy when an update has been waiting for longer than the timeout with no successful sync since; an
enforcer with nothing to do stays healthy for ever, with or without a planner (fail static), and so does one that is
still starting, whose node has the rules of its predecessor. `/healthz` also asks whether the node may take load
balancer traffic, `/livez` does not.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pointsman_model.names import Family
from pointsman_model.plan import NodeFacts


@dataclass(slots=True)
class _FamilyHealth:
    queued_at: float | None = None
    """Since when an update has been waiting, monotonic seconds; None when none is."""
    synced_at: float | None = None

    def is_healthy(self, now: float, timeout_seconds: float) -> bool:
        """Whether nothing has waited for too long. Until a first sync has succeeded it is a start, which is healthy."""
        if self.queued_at is None or self.synced_at is None:
            return True
        return now - self.queued_at < timeout_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyStatus:
    """One family's part of the answer. `synced_at` is monotonic seconds, None before the first sync."""

    is_healthy: bool
    synced_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthStatus:
    """What `/healthz` and `/livez` say."""

    is_healthy: bool
    is_node_eligible: bool
    families: dict[Family, FamilyStatus]

    @property
    def is_ready(self) -> bool:
        """Whether load balancers may send traffic here."""
        return self.is_healthy and self.is_node_eligible


@dataclass(slots=True, kw_only=True)
class Health:
    """Counts waiting updates. Not frozen: it is the process's memory of them."""

    timeout_seconds: float
    """How long an update may wait: twice syncPeriod."""
    _families: dict[Family, _FamilyHealth] = field(
        default_factory=lambda: {family: _FamilyHealth() for family in Family}
    )
    _eligible: bool = False

    def queued(self, now: float) -> None:
        """An update waits from now on, if none did."""
        for health in self._families.values():
            if health.queued_at is None:
                health.queued_at = now

    def synced(self, now: float) -> None:
        """Everything that waited is in the kernel."""
        for health in self._families.values():
            health.queued_at, health.synced_at = None, now

    def learn(self, facts: NodeFacts) -> None:
        """Take the node's eligibility from its facts. Before any are known the node is not eligible."""
        self._eligible = facts.eligible

    def status(self, now: float) -> HealthStatus:
        """The present state."""
        families = {
            family: FamilyStatus(is_healthy=health.is_healthy(now, self.timeout_seconds), synced_at=health.synced_at)
            for family, health in self._families.items()
        }
        return HealthStatus(
            is_healthy=all(status.is_healthy for status in families.values()),
            is_node_eligible=self._eligible,
            families=families,
        )
