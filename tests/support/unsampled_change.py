# SPDX-License-Identifier: Apache-2.0
"""Everything that tracing does for one change that nobody sampled, in each of the three services."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pointsman_chassis.clock import SystemClock
from pointsman_chassis.metrics import Registry
from pointsman_chassis.tracing import Tracing
from pointsman_chassis.tracing_otlp import OtlpTracer
from pointsman_enforcer.core.plan_session import Programmed
from pointsman_enforcer.core.transaction import ChangeOrigin, Position
from pointsman_enforcer.dataplane.work import Pending, Tally
from pointsman_enforcer.sync_spans import SyncSpans
from pointsman_model.cluster import Change, ClusterPosition, ObjectKey, ObjectKind
from pointsman_model.names import ServiceKey
from pointsman_planner.api.change_spans import ChangeSpans, under
from pointsman_planner.core.flights import Acknowledged
from pointsman_watcher.core.object_store import ObjectStore, Update
from pointsman_watcher.feed import ClusterFeed
from pointsman_watcher.metrics import WatcherMetrics

UNSAMPLED = f"00-{'a' * 32}-{'b' * 16}-00"


def steps() -> Mapping[str, Callable[[], object]]:
    """What is done once for a change (watcher, planner), and once for each node that it concerns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
        patch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
        tracing = Tracing(OtlpTracer("pointsman", {}, exporter=InMemorySpanExporter()))
    return {
        "watcher: each change": _watcher(tracing),
        "planner: each change": _planner_change(tracing),
        "planner: each node": _planner_node(tracing),
        "enforcer: each sync": _enforcer(tracing),
    }


def _watcher(tracing: Tracing) -> Callable[[], object]:
    feed = ClusterFeed(
        store=ObjectStore(epoch="e", log_entries_max=100),
        tracing=tracing,
        metrics=WatcherMetrics(Registry(process=False)),
        clock=SystemClock(),
    )
    key = ObjectKey(ObjectKind.ENDPOINT_SLICE, "shop", "cart-x7k2p")
    updates = [Update(key=key, body=b"body", resource_version="1234567", observed_at_ns=1)]
    return lambda: feed._traced(updates, 1)


def _planner_change(tracing: Tracing) -> Callable[[], object]:
    spans = ChangeSpans(tracing=tracing, clock=SystemClock())
    key = ObjectKey(ObjectKind.ENDPOINT_SLICE, "shop", "cart-x7k2p")
    changes = (Change(key=key, value=None, traceparent=UNSAMPLED),)
    return lambda: under(changes, spans.computing((change.traceparent for change in changes), start_ns=1))


def _planner_node(tracing: Tracing) -> Callable[[], object]:
    spans = ChangeSpans(tracing=tracing, clock=SystemClock())
    ack = Acknowledged((UNSAMPLED,), 1, ClusterPosition())

    def work() -> None:
        spans.sending("node-1", (UNSAMPLED,), start_ns=1)
        spans.acknowledged("node-1", ack, now_ns=1_000_001)

    return work


def _enforcer(tracing: Tracing) -> Callable[[], object]:
    spans = SyncSpans(tracing)
    pending = Pending(received_ns=1, origins=[ChangeOrigin(ServiceKey("shop", "cart"), UNSAMPLED)])
    programmed = Programmed(nonce=1, position=Position("e", 1), digest=1, programmed_digest=1, applied_at_ns=2)
    tally = Tally(messages=1, bytes=100, services=1, seconds=0.0001)
    return lambda: spans.synced(pending, programmed, tally, now=1.0)
