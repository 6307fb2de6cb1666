# SPDX-License-Identifier: Apache-2.0
"""What the enforcer counts: kube-proxy's names where kube-proxy has the figure, `pointsman_` for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prometheus_client import Counter

from pointsman_chassis.metrics import Registry
from pointsman_enforcer.core.plan_changes import PlanChanges
from pointsman_enforcer.core.programming_time import SERVICE_CLASSES, ProgrammedAs
from pointsman_enforcer.mode_settings import ModeName
from pointsman_model.names import Family

_SYNC_BUCKETS: Final = tuple(0.0001 * 2**exponent for exponent in range(19))
"""0.1 ms to 26 s: kube-proxy's begin at 1 ms, where ours mostly end."""
_PROGRAMMING_BUCKETS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
)  # fmt: skip
_FAMILY_NAMES: Final = {Family.IPV4: "IPv4", Family.IPV6: "IPv6"}
_SYNC_PREFIX: Final = "kubeproxy_sync_proxy_rules"
_RESTORE: Final = (False, "iptables_restore_failures_total", "Runs of iptables-restore that failed")
_FAILURES: Final[Mapping[ModeName, tuple[tuple[bool, str, str], ...]]] = {
    "nftables": (
        (False, "nftables_sync_failures_total", "Transactions the kernel refused"),
        (True, "nftables_cleanup_failures_total", "Removals of leftovers refused"),
    ),
    "iptables": (
        _RESTORE,
        (False, "iptables_partial_restore_failures_total", "Of these, runs for changed services only"),
    ),
    "ipvs": (_RESTORE,),
}
"""Whether a removal failed, kube-proxy's name, and what it says."""
FAMILIES: Final = tuple(_FAMILY_NAMES.values())


class EnforcerMetrics:
    """Made once by the composition root and handed to whoever counts."""

    def __init__(self, registry: Registry, mode: ModeName = "nftables") -> None:
        """`mode` decides which of kube-proxy's figures of failures there are, as it does in kube-proxy."""
        self.registry = registry
        info = registry.gauge("pointsman_enforcer_info", "Always 1; how this node moves packets.", ("mode",))
        info.labels(mode).set(1)
        family = ("ip_family",)
        self.sync_duration = registry.histogram(
            "kubeproxy_sync_proxy_rules_duration_seconds", "One sync, from start to the kernel's answer", family,
            buckets=_SYNC_BUCKETS,
        )  # fmt: skip
        self.full_sync_duration = registry.histogram(
            "kubeproxy_sync_full_proxy_rules_duration_seconds", "A sync that compared everything", family,
            buckets=_SYNC_BUCKETS,
        )  # fmt: skip
        self.partial_sync_duration = registry.histogram(
            "kubeproxy_sync_partial_proxy_rules_duration_seconds", "A sync of changed services only", family,
            buckets=_SYNC_BUCKETS,
        )  # fmt: skip
        self.programming_duration = registry.histogram(
            "kubeproxy_network_programming_duration_seconds", "From the endpoints' trigger time to the kernel", family,
            buckets=_PROGRAMMING_BUCKETS,
        )  # fmt: skip
        self.last_sync = registry.gauge(
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds", "When the last sync succeeded", family
        )
        self.last_queued = registry.gauge(
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "When a sync was last asked for", family
        )
        self._failures: dict[bool, list[Counter]] = {False: [], True: []}
        """kube-proxy's figures of failed syncs, and of failed removals."""
        for is_cleanup, name, documentation in _FAILURES.get(mode, ()):
            self._failures[is_cleanup].append(registry.counter(f"{_SYNC_PREFIX}_{name}", documentation, family))
        self.healthz = registry.counter("kubeproxy_proxy_healthz_total", "Answers of /healthz", ("code",))
        self.livez = registry.counter("kubeproxy_proxy_livez_total", "Answers of /livez", ("code",))
        self._begin()
        self._register_own(registry)

    def _begin(self) -> None:
        """Show every figure from the start: an alert on a rate sees a first failure only if there was a zero before."""
        for by_family in (
            self.sync_duration,
            self.full_sync_duration,
            self.partial_sync_duration,
            self.programming_duration,
            self.last_sync,
            self.last_queued,
            *self._failures[False],
            *self._failures[True],
        ):
            for family in FAMILIES:
                by_family.labels(family)
        for by_code in (self.healthz, self.livez):
            for code in ("200", "503"):
                by_code.labels(code)

    def _register_own(self, registry: Registry) -> None:
        self.services = registry.gauge("pointsman_enforcer_services", "Services in the plan held")
        self.sync_failures = registry.counter(
            "pointsman_enforcer_sync_failures_total",
            "What the kernel refused, in whatever mode: a transaction of a sync, or the removal of leftovers (cleanup)",
            ("kind",),
        )
        for kind in ("sync", "cleanup"):
            self.sync_failures.labels(kind)
        self.failed_services = registry.gauge(
            "pointsman_enforcer_failed_services", "Services that are not as planned", ("stage",)
        )
        self.class_programming_duration = registry.histogram(
            "pointsman_enforcer_network_programming_duration_seconds",
            "From the endpoints' trigger time to this node's kernel, by how far out the Service can be reached",
            ("service_class",), buckets=_PROGRAMMING_BUCKETS,
        )  # fmt: skip
        for service_class in SERVICE_CLASSES:
            self.class_programming_duration.labels(service_class)
        self.has_failures = False
        """Whether `failed` was last called with any."""
        self.kernel_messages = registry.counter("pointsman_enforcer_kernel_messages_total", "Messages to the kernel")
        self.kernel_bytes = registry.counter("pointsman_enforcer_kernel_bytes_total", "Bytes to the kernel")
        self.observations = registry.counter(
            "pointsman_enforcer_observations_total", "Times our kernel objects were read back"
        )
        self.drift_events = registry.counter(
            "pointsman_enforcer_drift_events_total", "Kinds of our kernel objects that somebody else touched", ("kind",)
        )
        self.drift_looks = registry.counter(
            "pointsman_enforcer_drift_repairs_total", "Looks at what somebody else touched, by outcome", ("outcome",)
        )
        self.drift_duration = registry.histogram(
            "pointsman_enforcer_drift_repair_duration_seconds", "From the first notice to the kernel's answer",
            buckets=_SYNC_BUCKETS,
        )  # fmt: skip
        self.verified_elements = registry.counter(
            "pointsman_enforcer_verified_elements_total", "Kernel objects read back by their keys after a change"
        )
        self.verification_mismatches = registry.counter(
            "pointsman_enforcer_verification_mismatches_total", "Services that were not as the kernel acknowledged them"
        )
        self.connected = registry.gauge("pointsman_enforcer_connected", "1 while a planner's stream is in sync")
        self.disconnects = registry.counter(
            "pointsman_enforcer_disconnects_total", "Times that the last stream in sync ended"
        )
        self.redirects = registry.counter(
            "pointsman_enforcer_redirects_total", "Times a planner sent this node to another"
        )
        self.resyncs = registry.counter(
            "pointsman_enforcer_resyncs_total", "Times the plan's digest was not the planner's"
        )
        self.revision = registry.gauge("pointsman_enforcer_plan_revision", "Revision of the plan in the kernel")
        self.journal_failures = registry.counter(
            "pointsman_enforcer_journal_failures_total", "Times the plan could not be written to disk"
        )
        self.outbox_overflows = registry.counter(
            "pointsman_enforcer_outbox_overflows_total", "Streams ended because the planner did not read our answers"
        )

    def changes(self, registry: Registry, changes: PlanChanges) -> None:
        """Figures of changes, computed when they are asked for."""
        prefix = "kubeproxy_sync_proxy_rules"
        for name, words, read_total, read_pending in (
            ("service", "Services", changes.service_total, changes.service_pending),
            ("endpoint", "the endpoints of Services", changes.endpoint_total, changes.endpoint_pending),
        ):
            registry.computed_counter(f"{prefix}_{name}_changes_total", f"Changes of {words}", read_total)
            pending = registry.gauge(f"{prefix}_{name}_changes_pending", f"Changes of {words} not yet programmed")
            pending.set_function(read_pending)

    def failed(self, by_stage: Mapping[str, int]) -> None:
        """How many services are not as planned, by stage."""
        for stage, count in by_stage.items():
            self.failed_services.labels(stage).set(count)
        self.has_failures = any(by_stage.values())

    def synced(self, *, seconds: float, wall_seconds: float, is_full: bool) -> None:
        """One sync succeeded; both families are programmed by one transaction, so they share its figures."""
        kind = self.full_sync_duration if is_full else self.partial_sync_duration
        for family in FAMILIES:
            self.sync_duration.labels(family).observe(seconds)
            kind.labels(family).observe(seconds)
            self.last_sync.labels(family).set(wall_seconds)

    def queued(self, wall_seconds: float) -> None:
        """A sync was asked for."""
        for family in FAMILIES:
            self.last_queued.labels(family).set(wall_seconds)

    def refused(self, *, is_cleanup: bool) -> None:
        """The kernel refused a transaction, or the removal of what no plan asks for."""
        self.sync_failures.labels("cleanup" if is_cleanup else "sync").inc()
        for failures in self._failures[is_cleanup]:
            for family in FAMILIES:
                failures.labels(family).inc()

    def programmed(self, counted: ProgrammedAs, seconds: float, exemplar: dict[str, str] | None) -> None:
        """An endpoint change reached the kernel so long after its trigger."""
        for family in counted.families:
            self.programming_duration.labels(_FAMILY_NAMES[family]).observe(seconds, exemplar)
        self.class_programming_duration.labels(counted.service_class).observe(seconds, exemplar)
