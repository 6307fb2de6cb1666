# SPDX-License-Identifier: Apache-2.0
"""Lets streams have their first transaction, so many at once (`core/admission`)."""

from __future__ import annotations

from collections.abc import Iterable

from pointsman_chassis.clock import Clock
from pointsman_planner.api.plan_stream import PlanStream
from pointsman_planner.core.admission import Admission, AdmissionLimits, Admitted
from pointsman_planner.metrics import ShardingMetrics


class Entrance:
    """Holds back the sessions of nodes of which much differs."""

    def __init__(self, *, limits: AdmissionLimits, metrics: ShardingMetrics, clock: Clock) -> None:
        self._admission: Admission[PlanStream] = Admission(limits)
        self._metrics = metrics
        self._clock = clock

    @property
    def waiting(self) -> int:
        """Streams that wait for their turn."""
        return self._admission.waiting

    def ask(self, stream: PlanStream) -> bool:
        """Let the stream in, now or when it is its turn; False = there are too many."""
        now = self._clock.monotonic()
        answer = self._admission.ask(stream, buckets=stream.session.differing_buckets, now=now)
        if answer is Admitted.NOW:
            self._admit((stream,))
        self._show()
        return answer is not Admitted.REFUSED

    def done(self, stream: PlanStream) -> None:
        """The stream's node has its plan, or the stream is over."""
        self._admit(self._admission.done(stream, now=self._clock.monotonic()))
        self._show()

    def keep_time(self) -> None:
        """Called now and then."""
        self._admit(self._admission.overdue(now=self._clock.monotonic()))
        self._show()

    def _admit(self, streams: Iterable[PlanStream]) -> None:
        for stream in streams:
            stream.session.admit()
            stream.wake()

    def _show(self) -> None:
        self._metrics.syncing.set(self._admission.syncing)
        self._metrics.sync_queue.set(self._admission.waiting)
