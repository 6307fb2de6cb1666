# SPDX-License-Identifier: Apache-2.0
"""A real change at the API server starts one trace, which begins when its bytes came and travels with the change."""

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pointsman.cluster.v1 import cluster_service_pb2 as pb
from pointsman_chassis.clock import VirtualClock
from pointsman_chassis.metrics import Registry
from pointsman_chassis.tracing import Tracing
from pointsman_chassis.tracing_otlp import OtlpTracer
from pointsman_model.cluster import Change, ObjectKey, ObjectKind
from pointsman_model.wire.cluster import change_from_pb
from pointsman_watcher.core.decode import Observed, Rejected, decode_event, decode_page
from pointsman_watcher.core.object_store import ObjectStore
from pointsman_watcher.core.resources import SERVICES
from pointsman_watcher.feed import ClusterFeed
from pointsman_watcher.metrics import WatcherMetrics
from support.cluster_objects import Json, event, list_json, service_json

RECEIVED_NS = 1_700_000_000_000_000_123


class Traced:
    """A feed whose spans are kept."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracer = OtlpTracer("pointsman-watcher", {}, exporter=self.exporter)
        self.feed = ClusterFeed(
            store=ObjectStore(epoch="e", log_entries_max=100),
            tracing=Tracing(self.tracer),
            metrics=WatcherMetrics(Registry(process=False)),
            clock=VirtualClock(),
        )

    def relist(self, *values: Json) -> None:
        self.feed.replace(SERVICES, decode_page(SERVICES, list_json(values)).items, RECEIVED_NS, "1")

    def observe(self, *lines: bytes) -> None:
        items = [decode_event(SERVICES, line) for line in lines]
        self.feed.observe(SERVICES, [item for item in items if isinstance(item, Observed | Rejected)], RECEIVED_NS, "1")

    def change(self, name: str) -> Change:
        entry = self.feed.store.entry(ObjectKey(ObjectKind.SERVICE, "shop", name))
        return change_from_pb(pb.Change.FromString(entry.body + entry.meta + entry.trace))


def test_changes_are_traced_and_initial_lists_and_repetitions_are_not() -> None:
    traced = Traced()
    traced.relist(service_json("shop/a"))
    assert traced.change("a").traceparent == ""
    traced.observe(
        event("MODIFIED", service_json("shop/a", resource_version=7)),
        event("ADDED", service_json("shop/b", "10.96.0.11", resource_version=8)),
    )
    traced.observe(event("DELETED", service_json("shop/a", resource_version=9)))
    traced.tracer.shutdown()
    spans = traced.exporter.get_finished_spans()
    assert {(span.name, span.start_time) for span in spans} == {("watch.event", RECEIVED_NS)}
    assert [dict(span.attributes or {}) for span in spans] == [
        {"object": "service shop/b", "resourceVersion": "8", "removed": False, "revision": 2},
        {"object": "service shop/a", "resourceVersion": "9", "removed": True, "revision": 3},
    ]
    for name, span in zip("ba", spans, strict=True):
        change = traced.change(name)
        assert span.context is not None
        assert change.traceparent == f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01"
        assert change.observed_at_ns == RECEIVED_NS
    assert len({span.context.trace_id for span in spans if span.context}) == 2


def test_what_a_relist_finds_changed_is_traced_too() -> None:
    traced = Traced()
    traced.relist(service_json("shop/a"), service_json("shop/b", "10.96.0.11"))
    traced.relist(service_json("shop/a", "10.96.0.99"))
    traced.tracer.shutdown()
    objects = [dict(span.attributes or {})["object"] for span in traced.exporter.get_finished_spans()]
    assert objects == ["service shop/a", "service shop/b"]
