# SPDX-License-Identifier: Apache-2.0
"""How many series a process exports does not depend on how many Services, endpoints or nodes there are."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AsyncExitStack

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pointsman_chassis.clock import SystemClock, VirtualClock
from pointsman_chassis.metrics import Registry
from pointsman_chassis.tracing import Tracing
from pointsman_chassis.tracing_otlp import OtlpTracer
from pointsman_enforcer.core.plan_session import Programmed
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.core.told_failures import Failure
from pointsman_enforcer.core.transaction import ChangeOrigin, Position, Stage, Transaction
from pointsman_enforcer.dataplane.work import Pending, Tally
from pointsman_enforcer.metrics import EnforcerMetrics
from pointsman_enforcer.observability import SyncObserver
from pointsman_model.names import ServiceKey
from pointsman_model.wire.plan import encode_service_plan
from pointsman_planner.fleet_metrics import NODES_SHOWN_MAX, FleetCollector
from pointsman_watcher.core.decode import Observed, Rejected, decode_event
from pointsman_watcher.core.object_store import ObjectStore
from pointsman_watcher.core.resources import SERVICES
from pointsman_watcher.feed import ClusterFeed
from pointsman_watcher.metrics import WatcherMetrics
from support.cluster_objects import endpoint_slice, event, node, service, service_json
from support.enforcer_plans import key, load_balancer, numbered
from support.model_enforcer import ModelEnforcer
from support.plan_server import enforcer_client, eventually, plan_server

Series = tuple[str, frozenset[tuple[str, str]]]
FEW, MANY = 3, 60


def series(registry: Registry) -> set[Series]:
    """Every series that a scrape would find."""
    return {
        (sample.name, frozenset(sample.labels.items()))
        for family in registry._registry.collect()
        for sample in family.samples
    }


def watcher(count: int) -> set[object]:
    registry = Registry(process=False)
    feed = ClusterFeed(
        store=ObjectStore(epoch="e", log_entries_max=100),
        tracing=Tracing(),
        metrics=WatcherMetrics(registry),
        clock=VirtualClock(),
    )
    lines = [event("ADDED", service_json(f"shop/s{number}", f"10.96.1.{number}")) for number in range(count)]
    broken = [event("ADDED", {**service_json(f"shop/b{number}"), "spec": 7}) for number in range(count)]
    items = [decode_event(SERVICES, line) for line in (*lines, *broken)]
    feed.observe(SERVICES, [item for item in items if isinstance(item, Observed | Rejected)], 1, "1")
    return set(series(registry))


def test_a_watchers_series_do_not_depend_on_objects() -> None:
    assert watcher(MANY) == watcher(FEW)


async def planner(count: int) -> set[Series]:
    async with plan_server() as server, AsyncExitStack() as clients:
        server.registry.register(FleetCollector(server.plans.standings, SystemClock()))
        names = [f"node-{number}" for number in range(count)]
        server.put(*(node(name, f"192.168.0.{number + 1}") for number, name in enumerate(names)))
        for name in names:
            await clients.enter_async_context(enforcer_client(server, ModelEnforcer(name)))
        for number in range(count):
            server.put(service(f"s{number}", f"10.96.1.{number}", ports=["p:80"]))
            server.put(endpoint_slice(f"s{number}-x", f"s{number}", [f"10.1.0.{number}"], ["p:80"]))
        await eventually(lambda: server.is_converged(*names), "every node")
        for name in names:
            server.plans.standings.fell_behind(name, 1)
        return series(server.registry)


async def test_a_planners_series_do_not_depend_on_services_nor_beyond_a_bound_on_nodes() -> None:
    few, many = await planner(FEW), await planner(MANY)
    by_node = [each for each in many if any(label == "node" for label, _ in each[1])]
    assert {name for name, _ in by_node} == {"pointsman_planner_node_behind_seconds"}
    assert len(by_node) == NODES_SHOWN_MAX
    assert without_nodes(many) == without_nodes(few)


def without_nodes(
    found: Iterable[Series],
) -> set[Series]:
    return {each for each in found if not any(label == "node" for label, _ in each[1])}


def enforcer(count: int) -> set[object]:
    registry, plans = Registry(process=False), PlanStore()
    keys = [key(number) for number in range(count)]
    updates = {each: encode_service_plan(numbered(number)) for number, each in enumerate(keys)}
    updates[ServiceKey("edge", "web")] = encode_service_plan(load_balancer())
    plans.apply(Transaction(nonce=1, updates=updates))
    tracing = Tracing(OtlpTracer("test", {}, exporter=InMemorySpanExporter()))
    observer = SyncObserver(
        metrics=EnforcerMetrics(registry),
        tracing=tracing,
        plans=plans,
        is_failed=lambda _: False,
        started_at_ns=1,
    )
    programmed = Programmed(nonce=1, position=Position("e", 1), digest=1, programmed_digest=1, applied_at_ns=9)
    origins = [ChangeOrigin(each, f"00-{number + 1:032x}-{1:016x}-01", 5) for number, each in enumerate(updates)]
    failures = {each: Failure(key=each, stage=Stage.APPLY, message=f"no room for {each}") for each in keys}
    observer.synced(Pending(origins=origins), programmed, Tally(failures=failures, is_full=True))
    return set(series(registry))


def test_an_enforcers_series_do_not_depend_on_services() -> None:
    assert enforcer(MANY) == enforcer(FEW)
