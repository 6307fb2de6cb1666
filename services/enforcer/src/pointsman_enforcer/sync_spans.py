# SPDX-License-Identifier: Apache-2.0
"""The node's part of a change's trace: `dataplane.render` and `dataplane.apply`, made after the planner was answered.

Spans of several changes that one sync took are linked. A change that was not sampled has its spans all the same when
the kernel, or this node, refused its service, or when the sync was one of the slowest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog

from pointsman_chassis.tracing import Attributes, Span, SpanGroup, Tracing, is_sampled, trace_fields
from pointsman_chassis.tracing_kept import KeptSpans
from pointsman_enforcer.core.plan_session import Programmed
from pointsman_enforcer.core.transaction import ChangeOrigin
from pointsman_enforcer.dataplane.work import Pending, Tally

_SLOW_SECONDS: Final = 0.02
"""No sync that takes less is slow, however fast the others are."""
_KEPT_MAX: Final = 16
"""Changes of one sync that spans are kept of though nobody sampled them; the newest."""


class SyncSpans:
    """Makes the spans of syncs; owns what is kept though nobody sampled it."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._kept = KeptSpans(floor_seconds=_SLOW_SECONDS)

    def synced(self, pending: Pending, programmed: Programmed, tally: Tally, *, now: float) -> None:
        """One sync is over; `now` is monotonic seconds."""
        if tally.failures:
            _log_failures(pending, tally)
        if not (self._tracing.is_enabled and pending.origins):
            return
        failed = [origin for origin in pending.origins if origin.service in tally.failures]
        is_kept = self._kept.keeps(seconds=tally.seconds, is_failed=bool(failed), now=now)
        wanted = [origin for origin in pending.origins if is_sampled(origin.traceparent)]
        if is_kept:
            wanted = [*wanted, *(failed or pending.origins)[-_KEPT_MAX:]]
        if wanted:
            self._make(wanted, pending, programmed, tally, is_kept=is_kept)

    def _make(
        self,
        origins: Sequence[ChangeOrigin],
        pending: Pending,
        programmed: Programmed,
        tally: Tally,
        *,
        is_kept: bool,
    ) -> None:
        fallback = (pending.received_ns, pending.received_ns, programmed.applied_at_ns)
        cost: Attributes = {
            "pointsman.revision": programmed.position.revision,
            "pointsman.kernel_messages": tally.messages,
            "pointsman.kernel_bytes": tally.bytes,
            "pointsman.services": tally.services,
        }
        by_parent = {origin.traceparent: origin for origin in origins if origin.traceparent}
        applies: dict[str, Span] = {}
        for parent, origin in by_parent.items():
            rendering_ns, applying_ns, _ = tally.timings.get(origin.service, fallback)
            named = {"pointsman.service": str(origin.service), **cost}
            self._tracing.span(
                "dataplane.render", parent=parent, start_ns=rendering_ns, attributes=named, is_kept=is_kept
            ).end(applying_ns)
            applies[parent] = span = self._tracing.span(
                "dataplane.apply", parent=parent, start_ns=applying_ns, attributes=named, is_kept=is_kept
            )
            failure = tally.failures.get(origin.service)
            if failure is not None:
                span.fail(f"{failure.stage.name.lower()}: {failure.message}")
        SpanGroup(applies)
        for parent, span in applies.items():
            span.end(tally.timings.get(by_parent[parent].service, fallback)[2])


def _log_failures(pending: Pending, tally: Tally) -> None:
    """Say which services are not as planned, and which change brought them."""
    traces = {origin.service: origin.traceparent for origin in pending.origins}
    for key, failure in list(tally.failures.items())[:10]:
        structlog.get_logger("reconciler").warning(
            "service is not as planned",
            **trace_fields(traces.get(key, "")),
            failed=str(key),
            stage=failure.stage.name.lower(),
            error=failure.message,
            failures=len(tally.failures),
        )
