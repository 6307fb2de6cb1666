# SPDX-License-Identifier: Apache-2.0
"""One change is one trace across the three processes, and an unsampled one costs no span."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pytest

from pointsman_lab.settings import LabSettings
from pointsman_lab.supervise.services import OTLP_HTTP_PORT
from support.lab_cluster import ALL_SERVICES, lab
from support.lab_process import away, take_away, wait_synced
from support.lab_world import World, fresh_namespace, start_backends

if TYPE_CHECKING:
    from pointsman_lab.otlp.store import Span

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.asyncio(loop_scope="session")]

SCTP_SLICE = """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: refused
  namespace: {namespace}
  labels: {{kubernetes.io/service-name: refused}}
addressType: IPv4
ports: [{{name: sctp, port: 82, protocol: SCTP}}]
endpoints: [{{addresses: [10.244.1.99], conditions: {{ready: true}}}}]
"""
PLANNER = "pointsman-planner"
ENFORCER = "pointsman-enforcer"


async def whole_trace(world: World, what: str, *, removed: bool = False) -> tuple[Span, ...]:
    """The trace of the one change of an object of this namespace, once every node has acknowledged."""
    found: list[tuple[Span, ...]] = []

    async def is_whole() -> bool:
        ids = await world.cluster.find_traces(attribute="object", value=f"{what} {world.namespace}/web")
        traces = [tuple(await world.cluster.trace(trace_id)) for trace_id in ids]
        found[:] = [spans for spans in traces if spans and spans[0].attributes.get("removed") is removed]
        names = [span.name for spans in found for span in spans]
        return names.count("dataplane.apply") >= 3 <= names.count("ack") and "plan.compute" in names

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
    (compute,) = [span for span in spans if span.name == "plan.compute"]
    assert (compute.service, compute.parent_id) == (PLANNER, root.span_id)
    assert compute.attributes["pointsman.nodes"] == 3
    sends = {str(span.attributes["k8s.node.name"]): span for span in spans if span.name == "plan.send"}
    assert set(sends) == nodes
    assert {(send.service, send.parent_id) for send in sends.values()} == {(PLANNER, compute.span_id)}
    for node, send in sends.items():
        below = sorted((span.name, span.service) for span in spans if span.parent_id == send.span_id)
        assert below == [("ack", PLANNER), ("dataplane.apply", ENFORCER), ("dataplane.render", ENFORCER)], node
        assert {span.host for span in spans if span.parent_id == send.span_id and span.service == ENFORCER} == {node}
    assert len(spans) == 2 + 4 * len(nodes), "and nothing else"
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


async def test_changes_that_a_node_takes_together_are_linked(world: World) -> None:
    names, node = ("a", "b", "c", "d"), world.cluster.nodes[0].name
    await wait_synced(world.cluster)
    async with away(world.cluster, f"enforcer-{node}", "stopped"):
        for name in names:  # two transactions may be on their way; what comes then is one
            await world.service(name)
            await wait_trace(world, name, "plan.compute")
    traces = {name: await wait_trace(world, name, "ack", node) for name in names}
    sends = {name: sent_to(spans, node) for name, spans in traces.items()}
    newest = sends["d"]
    assert newest.attributes["pointsman.coalesced"] == 2
    assert newest.links == ((sends["c"].trace_id, sends["c"].span_id),)
    assert sends["c"].links == ((newest.trace_id, newest.span_id),)
    assert sends["c"].attributes["pointsman.nonce"] == newest.attributes["pointsman.nonce"]
    applies = [span for name in "cd" for span in traces[name] if (span.name, span.host) == ("dataplane.apply", node)]
    assert {trace_id for span in applies for trace_id, _ in span.links} >= {span.trace_id for span in applies}
    assert len(traces["d"]) == 2 + 4 * len(world.cluster.nodes), "each trace is whole by itself"


async def wait_trace(world: World, name: str, span: str, node: str = "") -> list[Span]:
    """The trace of the Service's change once it has such a span (of a node)."""
    found: list[Span] = []

    async def is_there() -> bool:
        for trace_id in await world.cluster.find_traces(attribute="object", value=f"service {world.namespace}/{name}"):
            found[:] = await world.cluster.trace(trace_id)
            nodes = len(world.cluster.nodes)
            if sum(each.name == span for each in found) >= (nodes if node else 1):
                return not node or sum(each.name == "dataplane.apply" for each in found) >= nodes
        return False

    await world.cluster.wait_until(is_there, f"{span} of {name}")
    return found


def sent_to(spans: Iterable[Span], node: str) -> Span:
    [found] = [span for span in spans if span.name == "plan.send" and span.attributes["k8s.node.name"] == node]
    return found


async def test_the_same_tree_comes_by_http() -> None:
    """The cluster of the other tests sends by gRPC; either way the link is mutual TLS."""
    address = LabSettings(nodes=1, zones=1).topology.control_address.ipv4
    environment = {
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"https://{address}:{OTLP_HTTP_PORT}",
        "REQUESTS_CA_BUNDLE": "",  # a machine's own, which would stand above the certificate asked for
        "CURL_CA_BUNDLE": "",
    }
    async with lab(nodes=1, zones=1, services=ALL_SERVICES, environment=environment) as cluster:
        backends = await start_backends(cluster)
        await wait_synced(cluster)
        async with fresh_namespace(cluster, backends, "http") as world:
            await world.service("web")
            spans = {span.name: span for span in await wait_trace(world, "web", "ack", "node-1")}
            send = spans["plan.send"]
            assert {name for name, span in spans.items() if span.parent_id == send.span_id} == {
                "dataplane.render", "dataplane.apply", "ack",
            }  # fmt: skip
            assert send.parent_id == spans["plan.compute"].span_id
            assert spans["plan.compute"].parent_id == spans["watch.event"].span_id


async def test_an_unsampled_change_leaves_no_span_unless_a_node_is_slow_or_refuses() -> None:
    """A proxy without rules cannot do SCTP: a refusal that needs nothing broken."""
    settings = {
        "environment": {"OTEL_TRACES_SAMPLER": "parentbased_always_off"},
        "mode": "userspace",
        "enforcer_config": {"userspace": {"redirect": "none"}},
    }
    async with lab(nodes=1, zones=1, services=ALL_SERVICES, **settings) as cluster:
        await cluster.node_exec("node-1", "ip", "route", "add", "local", "10.96.0.0/12", "dev", "lo")
        backends = await start_backends(cluster)
        await wait_synced(cluster)
        world = World(cluster, backends, "default")  # without rules there is nothing to compare with the API at its end
        before = set(await cluster.find_traces(limit=1000))
        await world.service("slow")
        await wait_synced(cluster)
        async with away(cluster, "enforcer-node-1", "stopped"):
            await world.patch_service({"ports": [{"name": "other", "port": 81}]}, "slow")
            await cluster.node_exec("node-1", "sleep", "0.2")  # what is slow takes time
        await wait_synced(cluster)

        spans: list[Span] = []

        async def are_kept(count: int) -> bool:
            ids = [each for each in await cluster.find_traces(limit=1000) if each not in before]
            spans[:] = [span for trace_id in ids for span in await cluster.trace(trace_id)]
            return sum(span.name == "ack" for span in spans) >= count

        await cluster.wait_until(lambda: are_kept(1), "the slow node's span")
        assert {span.attributes["pointsman.slow"] for span in spans if span.name == "ack"} == {True}
        before.update(span.trace_id for span in spans)
        await world.service("refused", ports=[{"name": "sctp", "port": 82, "protocol": "SCTP"}])
        await cluster.apply_text(SCTP_SLICE.format(namespace=world.namespace))

        async def is_refusal_kept() -> bool:
            await are_kept(1)
            return {span.name for span in spans if span.is_error} == {"ack", "dataplane.apply"}

        await cluster.wait_until(is_refusal_kept, "the refusal's spans")
        for trace_id in {span.trace_id for span in spans if span.is_error}:
            mine = [span for span in spans if span.trace_id == trace_id]
            assert {span.name for span in mine} == {"ack", "dataplane.apply", "dataplane.render"}
            assert len({span.parent_id for span in mine}) == 1, "the event, which nobody sampled"
            assert all("SCTP" in span.message for span in mine if span.is_error), mine


async def test_with_sampling_off_changes_arrive_and_no_span_is_sent() -> None:
    async with lab(
        nodes=1, zones=1, services=ALL_SERVICES, environment={"OTEL_TRACES_SAMPLER": "always_off"}
    ) as cluster:
        backends = await start_backends(cluster)
        await wait_synced(cluster)
        world = World(cluster, backends, "default")
        vip = (await world.service())["spec"]["clusterIP"]
        await world.endpoints(backends)
        await world.expect_everywhere(vip, backends)
        await wait_synced(cluster)
        # What would come has come when the processes have ended in order.
        for name in ("watcher", "planner", "enforcer-node-1"):
            await take_away(cluster, name, "ended")
        assert await cluster.find_traces() == []
