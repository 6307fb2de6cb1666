# SPDX-License-Identifier: Apache-2.0
"""Where changes came from, while they wait for a transaction: bounded, newest last, shared by all nodes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from pointsman_model.names import Family, ServiceKey
from pointsman_planner.core.framing import origin_field

ORIGINS_MAX = 64
"""As plan.v1 says."""
_TRACES_MAX = 16
"""Traces that one transaction is followed up in: a burst of changes makes one apply, and need not make 64 spans."""


class Origin:
    """One change at the API server, encoded once. `traceparent` is empty when it is not traced."""

    __slots__ = (
        "_family", "_observed_at_ns", "_trigger_time_ns", "field", "has_trigger", "service", "traceparent", "traces",
    )  # fmt: skip

    def __init__(
        self,
        service: ServiceKey,
        traceparent: str,
        trigger_time_ns: int,
        observed_at_ns: int,
        family: Family | None = None,
    ) -> None:
        """`family` is that of the endpoints that changed, None when something else did."""
        self.service = service
        self.traceparent = traceparent
        self.has_trigger = trigger_time_ns != 0
        self._trigger_time_ns = trigger_time_ns
        self._observed_at_ns = observed_at_ns
        self._family = family
        self.traces = (traceparent,) if traceparent else ()
        """The same as a tuple, shared by every node whose transaction brings nothing else."""
        self.field = origin_field(service, traceparent, trigger_time_ns, observed_at_ns, family)

    def without_trigger(self) -> Origin:
        """The same change, which nobody measures the time of."""
        if not self.has_trigger:
            return self
        return Origin(self.service, self.traceparent, 0, self._observed_at_ns, self._family)

    def field_under(self, traceparent: str) -> bytes:
        """The field for a node whose spans have a parent of their own."""
        return origin_field(self.service, traceparent, self._trigger_time_ns, self._observed_at_ns, self._family)


class Origins:
    """The origins that the next transaction brings; when there are too many, the oldest are left out."""

    __slots__ = ("_held", "_traces")

    def __init__(self) -> None:
        self._held: deque[Origin] | None = None
        self._traces: tuple[str, ...] = ()

    def add(self, origin: Origin | None) -> None:
        """One more change."""
        if origin is None:
            return
        if self._held is None:
            self._held = deque(maxlen=ORIGINS_MAX)
        self._held.append(origin)

    def forget_triggers(self, service: ServiceKey) -> None:
        """A slice of the service is gone: what called for it is no longer waited for (as in kube-proxy)."""
        if self._held:
            kept = (origin.without_trigger() if origin.service == service else origin for origin in self._held)
            self._held = deque(kept, maxlen=ORIGINS_MAX)

    def keep_traces(self, traceparents: Iterable[str]) -> None:
        """Traces of transactions that are replaced by the next one, to be followed up with it."""
        self._traces = (*self._traces, *traceparents)[-_TRACES_MAX:]

    def fields(self, parents: Mapping[str, str]) -> tuple[bytes, ...]:
        """The `origins` fields, newest last; `parents` are traceparents to send in the place of others."""
        if not self._held:
            return ()
        if not parents:
            return tuple(origin.field for origin in self._held)
        return tuple(
            origin.field_under(parents[origin.traceparent]) if origin.traceparent in parents else origin.field
            for origin in self._held
        )

    def traces(self) -> tuple[str, ...]:
        """Traceparents of the newest changes, sampled or not, each once, newest last."""
        if not self._held and not self._traces:
            return ()
        if self._held and len(self._held) == 1 and not self._traces:
            return self._held[0].traces
        held = (origin.traceparent for origin in self._held or () if origin.traceparent)
        return tuple(dict.fromkeys((*self._traces, *held)))[-_TRACES_MAX:]

    def clear(self) -> None:
        """They were sent."""
        self._held = None
        self._traces = ()
