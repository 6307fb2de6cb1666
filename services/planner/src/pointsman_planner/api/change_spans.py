# SPDX-License-Identifier: Apache-2.0
"""The planner's part of a change's trace.

    watch.event -> plan.compute -> plan.send (one for each node) -> ack, and dataplane.render and .apply on the node

The context of `plan.compute` replaces the watcher's in the change, and that of a node's `plan.send` replaces it in the
node's transaction, so what a node does lies under what was sent to it. A change that concerns thousands of nodes would
make ten thousand spans: only the first `NODES_MAX` nodes of a trace are followed. Of the others, and of changes that
nobody sampled, the `ack` span is made afterwards if the node refused a service or was one of the slowest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from pointsman_chassis.clock import Clock
from pointsman_chassis.tracing import NO_SPANS, SpanGroup, Tracing, is_sampled, unsampled
from pointsman_chassis.tracing_kept import KeptSpans
from pointsman_model.cluster import Change
from pointsman_planner.core.flights import Acknowledged
from pointsman_planner.core.override import OverrideChange

NODES_MAX: Final = 100
"""Nodes whose part of a change is followed from the start."""
_TRACES_MAX: Final = 1_000
_SLOW_SECONDS: Final = 0.05
"""No ack that takes less is slow, however fast the others are."""

C = TypeVar("C", Change, OverrideChange)


class ChangeSpans:
    """Makes the spans; owns how many nodes of a trace are followed, and what is kept though nobody sampled it."""

    def __init__(self, *, tracing: Tracing, clock: Clock) -> None:
        self._tracing = tracing
        self._clock = clock
        self._kept = KeptSpans(floor_seconds=_SLOW_SECONDS)
        self._nodes: OrderedDict[str, int] = OrderedDict()
        """Nodes followed, by trace id; the trace that was begun first makes room."""

    def computing(self, traceparents: Iterable[str], *, start_ns: int) -> SpanGroup:
        """`plan.compute`, for each sampled change of a batch; ended by the caller."""
        if not self._tracing.is_enabled:
            return NO_SPANS
        sampled = list(dict.fromkeys(each for each in traceparents if is_sampled(each)))
        return self._tracing.spans("plan.compute", parents=sampled, start_ns=start_ns) if sampled else NO_SPANS

    def sending(self, node: str, traces: Sequence[str], *, start_ns: int) -> tuple[SpanGroup, Mapping[str, str]]:
        """`plan.send` to a node, ended by the caller; and what the transaction carries in the place of `traces`."""
        sampled = [each for each in traces if is_sampled(each)] if self._tracing.is_enabled else ()
        if not sampled:
            return NO_SPANS, {}
        followed = [each for each in sampled if self._follows(each)]
        attributes = {"k8s.node.name": node}
        group = self._tracing.spans("plan.send", parents=followed, start_ns=start_ns, attributes=attributes)
        parents = {each: unsampled(each) for each in sampled}
        parents.update({each: span.traceparent for each, span in group.spans.items()})
        return group, parents

    def acknowledged(self, node: str, ack: Acknowledged, *, now_ns: int) -> dict[str, str] | None:
        """`ack` of a node, after the fact; returns the exemplar for the figure that measures the same."""
        if not (self._tracing.is_enabled and ack.traceparents):
            return None
        seconds = max(now_ns - ack.built_ns, 0) / 1e9
        is_failed = ack.failure is not None
        is_kept = self._kept.keeps(seconds=seconds, is_failed=is_failed, now=self._clock.monotonic())
        group = self._tracing.spans(
            "ack",
            parents=ack.traceparents,
            start_ns=ack.built_ns,
            attributes={"k8s.node.name": node},
            is_kept=is_kept,
        )
        if not group.spans:
            return None
        if ack.failure is not None:
            refused = ack.failure
            for span in group.spans.values():
                span.fail(f"{refused.service}: {refused.stage.name.lower()}: {refused.message}")
        elif is_kept:
            group.set("pointsman.slow", value=True)
        group.end(now_ns)
        return group.exemplar

    def _follows(self, traceparent: str) -> bool:
        """Whether one more node of this trace is followed."""
        trace_id = traceparent[3:35]
        followed = self._nodes.get(trace_id, 0)
        if followed >= NODES_MAX:
            return False
        self._nodes[trace_id] = followed + 1
        if len(self._nodes) > _TRACES_MAX:
            self._nodes.popitem(last=False)
        return True


def under(changes: Sequence[C], group: SpanGroup) -> tuple[C, ...]:
    """The changes with the spans of `group` for parents."""
    if not group.spans:
        return tuple(changes)
    return tuple(
        _with_parent(change, group.spans[change.traceparent].traceparent)
        if change.traceparent in group.spans
        else change
        for change in changes
    )


def _with_parent(change: C, traceparent: str) -> C:
    if isinstance(change, OverrideChange):
        return change._replace(traceparent=traceparent)
    return replace(change, traceparent=traceparent)
