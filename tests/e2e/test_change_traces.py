# SPDX-License-Identifier: Apache-2.0
"""One change is one trace across the three processes, and an unsampled one costs no span."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from support.lab_cluster import ALL_SERVICES, lab
from support.lab_process import wait_synced
from support.lab_world import fresh_namespace, start_backends

if TYPE_CHECKING:
    from pointsman_lab.otlp.store import Span
    from support.lab_world import World

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.asyncio(loop_scope="session")]

PLANNER = "pointsman-planner"
ENFORCER = "pointsman-enforcer"


async def whole_trace(world: World, what: str, *, removed: bool = False) -> tuple[Span, ...]:
    """The trace of the one change of an object of this namespace, once every node has acknowledged."""
    found: list[tuple[Span, ...]] = []

    async def is_whole() -> bool:
        ids = await world.cluster.find_traces(attribute="object", value=f"{what} {world.namespace}/web")
        traces = [tuple(await world.cluster.trace(trace_id)) for trace_id in ids]
        found[:] = [spans for spans in traces if spans[0].attributes["removed"] is removed]
        names = [span.name for spans in found for span in spans]
        return names.count("dataplane.apply") >= 3 <= names.count("ack")

    await world.cluster.wait_until(is_whole, f"the trace of {what} {world.namespace}/web")
    assert len(found) == 1, "one change, one trace"
    return found[0]


async def test_a_change_is_one_trace_from_the_event_to_the_kernel_of_every_node(world: World) -> None:
    await world.endpoints(world.backends, slice_name="other")
    await wait_synced(world.cluster)
    await world.service()
    spans = await whole_trace(world, "service")
    nodes = {node.name for node in world.cluster.nodes}
    (root,) = [span for span in spans if not span.parent_id]
    assert (root.name, root.service) == ("watch.event", "pointsman-watcher")
    ids = {span.span_id for span in spans}
    assert all(span.parent_id in ids for span in spans if span is not root)
    (compute,) = [span for span in spans if span.name == "plan.compute"]
    assert compute.service == PLANNER
    assert compute.attributes["pointsman.nodes"] == 3
    for name in ("plan.send", "ack"):
        assert {s.attributes["k8s.node.name"] for s in spans if s.name == name and s.service == PLANNER} == nodes, name
    for name in ("dataplane.render", "dataplane.apply"):
        assert {span.host for span in spans if span.name == name and span.service == ENFORCER} == nodes, name
    assert {span.name for span in spans} == {
        "watch.event", "plan.compute", "plan.send", "dataplane.render", "dataplane.apply", "ack",
    }  # fmt: skip
    assert not any(span.is_error for span in spans)


async def test_the_steps_of_a_trace_follow_each_other(world: World) -> None:
    await world.service()
    spans = await whole_trace(world, "service")
    starts = {name: min(span.start_ns for span in spans if span.name == name) for name in {s.name for s in spans}}
    order = ("watch.event", "plan.compute", "plan.send", "dataplane.render", "dataplane.apply")
    assert [starts[name] for name in order] == sorted(starts[name] for name in order)
    for node in world.cluster.nodes:
        mine = {span.name: span for span in spans if span.service == ENFORCER and span.host == node.name}
        (ack,) = [s for s in spans if (s.name, s.attributes.get("k8s.node.name")) == ("ack", node.name)]
        assert mine["dataplane.render"].end_ns <= mine["dataplane.apply"].end_ns <= ack.end_ns
    assert all(span.end_ns >= span.start_ns for span in spans)


async def test_a_removal_is_a_trace_too(world: World) -> None:
    await world.service()
    await whole_trace(world, "service")
    await world.delete_service()
    (root, *_) = await whole_trace(world, "service", removed=True)
    assert root.attributes["object"] == f"service {world.namespace}/web"


async def test_with_sampling_off_changes_arrive_and_no_span_is_sent() -> None:
    async with lab(
        nodes=1, zones=1, services=ALL_SERVICES, environment={"OTEL_TRACES_SAMPLER": "always_off"}
    ) as cluster:
        backends = await start_backends(cluster)
        await wait_synced(cluster)
        async with fresh_namespace(cluster, backends, "unsampled") as world:
            vip = (await world.service())["spec"]["clusterIP"]
            await world.endpoints(backends)
            await world.expect_everywhere(vip, backends)
            await wait_synced(cluster)
            # Spans are sent every 200 ms: what would come has come when the processes have ended in order.
            await asyncio.gather(*(cluster.stop_process(name) for name in ("watcher", "planner", "enforcer-node-1")))
            assert await cluster.find_traces() == []
            for name in ("watcher", "planner", "enforcer-node-1"):
                await cluster.start_process(name)
