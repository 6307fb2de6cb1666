# SPDX-License-Identifier: Apache-2.0
"""What a sync leaves behind for people: metrics always, spans for the changes that are traced.

Runs after the planner has been answered, so none of it is on the way of a change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog

from pointsman_chassis.tracing import AttributeValue, Tracing, is_sampled
from pointsman_enforcer.core.plan_session import Programmed
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.core.programming_time import families_of, programming_times
from pointsman_enforcer.core.transaction import ChangeOrigin, Stage
from pointsman_enforcer.dataplane.drift import DriftLook
from pointsman_enforcer.dataplane.reconciler import Reconciler
from pointsman_enforcer.dataplane.work import Pending, Tally
from pointsman_enforcer.metrics import EnforcerMetrics
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
    ) -> None:
        """`is_failed` says of a service that it is not as planned; `started_at_ns` is when this process started."""
        self._metrics = metrics
        self._tracing = tracing
        self._plans = plans
        self._is_failed = is_failed
        self._started_at_ns = started_at_ns

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
        if self._tracing.is_enabled and pending.origins:
            self._spans(pending, programmed, tally)

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
            for family in families_of(origin, self._plans.get(origin.service)):
                self._metrics.programmed(family, seconds)

    def gauges(self, store: PlanStore, reconciler: Reconciler[Any]) -> None:
        """The present state."""
        metrics = self._metrics
        metrics.services.set(len(store))
        if reconciler.failures or metrics.has_failures:
            stages = [failed.stage for _, failed in reconciler.failures.items()]
            metrics.failed({stage.name.lower(): stages.count(stage) for stage in Stage})

    def _spans(self, pending: Pending, programmed: Programmed, tally: Tally) -> None:
        """`dataplane.render` and `dataplane.apply` under each traced change, which may be several to one sync."""
        seen: set[str] = set()
        for origin in pending.origins:
            parent = origin.traceparent
            if parent in seen or not is_sampled(parent):
                continue
            seen.add(parent)
            self._change_spans(origin, pending, programmed, tally)

    def _change_spans(self, origin: ChangeOrigin, pending: Pending, programmed: Programmed, tally: Tally) -> None:
        fallback = (pending.received_ns, pending.received_ns, programmed.applied_at_ns)
        rendering_ns, applying_ns, applied_ns = tally.timings.get(origin.service, fallback)
        named: dict[str, AttributeValue] = {
            "pointsman.service": str(origin.service),
            "pointsman.revision": programmed.position.revision,
        }
        render = self._tracing.span(
            "dataplane.render", parent=origin.traceparent, start_ns=rendering_ns, attributes=named
        )
        render.end(applying_ns)
        cost: dict[str, AttributeValue] = {
            "pointsman.kernel_messages": tally.messages,
            "pointsman.kernel_bytes": tally.bytes,
            "pointsman.services": tally.services,
        }
        apply = self._tracing.span(
            "dataplane.apply", parent=origin.traceparent, start_ns=applying_ns, attributes={**named, **cost}
        )
        failure = tally.failures.get(origin.service)
        if failure is not None:
            apply.fail(failure.message)
        apply.end(applied_ns)
