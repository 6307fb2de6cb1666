# SPDX-License-Identifier: Apache-2.0
"""What a sync leaves behind for people: metrics always, spans for the changes that are traced.

Runs after the planner has been answered, so none of it is on the way of a change.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import structlog

from pointsman_chassis.tracing import Tracing, exemplar
from pointsman_enforcer.core.plan_session import Programmed
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.core.programming_time import programmed_as, programming_times
from pointsman_enforcer.core.transaction import Stage
from pointsman_enforcer.dataplane.drift import DriftLook
from pointsman_enforcer.dataplane.reconciler import Reconciler
from pointsman_enforcer.dataplane.work import Pending, Tally
from pointsman_enforcer.metrics import EnforcerMetrics
from pointsman_enforcer.sync_spans import SyncSpans
from pointsman_model.names import ServiceKey


class SyncObserver:
    """Turns the reconciler's tallies into metrics and spans."""

    def __init__(
        self,
        *,
        metrics: EnforcerMetrics,
        tracing: Tracing,
        plans: PlanStore,
        is_failed: Callable[[ServiceKey], bool],
        started_at_ns: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`is_failed` says of a service that it is not as planned; `started_at_ns` is when this process started."""
        self._metrics = metrics
        self._monotonic = monotonic
        self._plans = plans
        self._is_failed = is_failed
        self._started_at_ns = started_at_ns
        self._spans = SyncSpans(tracing)
        tracing.count_in(metrics.registry, "pointsman_enforcer")

    def synced(self, pending: Pending, programmed: Programmed, tally: Tally) -> None:
        """One sync is over and reported."""
        metrics = self._metrics
        metrics.synced(seconds=tally.seconds, wall_seconds=programmed.applied_at_ns / 1e9, is_full=tally.is_full)
        if any(failure.stage is Stage.APPLY for failure in tally.failures.values()):
            metrics.refused(is_cleanup=False)
        metrics.kernel_messages.inc(tally.messages)
        metrics.kernel_bytes.inc(tally.bytes)
        metrics.revision.set(programmed.position.revision)
        if tally.is_full:
            metrics.observations.inc()
            log = structlog.get_logger("reconciler")
            log.info("kernel is as planned", services=tally.services, seconds=round(tally.seconds, 3))
        self._programming_times(pending, programmed)
        self._spans.synced(pending, programmed, tally, now=self._monotonic())

    def drift(self, look: DriftLook) -> None:
        """Something that somebody else touched was looked at."""
        for kind in look.kinds:
            self._metrics.drift_events.labels(kind).inc()
        self._metrics.drift_looks.labels(look.outcome.value).inc()
        self._metrics.drift_duration.observe(look.seconds)

    def _programming_times(self, pending: Pending, programmed: Programmed) -> None:
        times = programming_times(
            pending.origins,
            started_at_ns=self._started_at_ns,
            applied_at_ns=programmed.applied_at_ns,
            is_failed=self._is_failed,
        )
        for origin, seconds in times:
            counted = programmed_as(origin, self._plans.get(origin.service))
            if counted.families:
                self._metrics.programmed(counted, seconds, exemplar(origin.traceparent))

    def gauges(self, store: PlanStore, reconciler: Reconciler[Any]) -> None:
        """The present state."""
        metrics = self._metrics
        metrics.services.set(len(store))
        if reconciler.failures or metrics.has_failures:
            stages = [failed.stage for _, failed in reconciler.failures.items()]
            metrics.failed({stage.name.lower(): stages.count(stage) for stage in Stage})
