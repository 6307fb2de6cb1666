# SPDX-License-Identifier: Apache-2.0
"""The planner's spans: computing under the event, sending to each node under computing, its ack under sending."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from structlog.testing import capture_logs

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman.types.v1 import types_pb2
from pointsman_chassis.clock import SystemClock
from pointsman_chassis.tracing import Tracing
from pointsman_chassis.tracing_otlp import OtlpTracer
from pointsman_planner.api import change_spans
from pointsman_planner.api.change_spans import ChangeSpans
from support.cluster_objects import endpoint_slice, node, service
from support.model_enforcer import ModelEnforcer
from support.plan_server import EnforcerClient, PlanServer, enforcer_client, eventually, plan_server

SAMPLED = f"00-{'a' * 32}-{'b' * 16}-01"
UNSAMPLED = f"00-{'c' * 32}-{'d' * 16}-00"


class Traced:
    """A planner whose spans are kept."""

    def __init__(self, server: PlanServer) -> None:
        self.server = server
        self._exporter = InMemorySpanExporter()
        self._tracer = OtlpTracer("pointsman-planner", {}, exporter=self._exporter)
        server.plans.spans = ChangeSpans(tracing=Tracing(self._tracer), clock=SystemClock())

    def change(self, address: str, traceparent: str, name: str = "web") -> None:
        item = endpoint_slice(f"{name}-x", name, [address], ["p:80"])
        self.server.put(item, traceparent=traceparent)

    def spans(self) -> Sequence[ReadableSpan]:
        self._tracer._provider.force_flush()
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans() if span.name == name]


@asynccontextmanager
async def traced(*, acks: bool = True) -> AsyncIterator[tuple[Traced, EnforcerClient]]:
    async with plan_server() as server:
        world = Traced(server)
        async with enforcer_client(server, ModelEnforcer("node-a"), acks=acks) as client:
            server.put(node("node-a", "192.168.0.2"), service("web", "10.96.0.1", ports=["p:80"]))
            await eventually(lambda: len(client.transactions) == 1, "first transaction")
            yield world, client


def span_id(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


def parent_id(span: ReadableSpan) -> int:
    assert span.parent is not None
    return span.parent.span_id


def origins(client: EnforcerClient, nonce: int) -> list[str]:
    parts = [response.transaction for response in client.responses if response.HasField("transaction")]
    return [origin.trace.traceparent for part in parts if part.nonce == nonce for origin in part.origins]


async def test_a_sampled_change_is_a_tree_and_the_node_is_told_its_own_span() -> None:
    async with traced() as (world, client):
        await eventually(lambda: world.server.is_converged("node-a"), "first sync")
        assert world.spans() == ()
        world.change("10.1.0.1", SAMPLED)
        await eventually(lambda: len(world.spans()) == 3, "three spans")
        [compute], [send], [ack] = (world.named(name) for name in ("plan.compute", "plan.send", "ack"))
        assert f"{parent_id(compute):016x}" == "b" * 16
        assert (parent_id(send), parent_id(ack)) == (span_id(compute), span_id(send))
        assert {f"{span.context.trace_id:032x}" for span in world.spans() if span.context} == {"a" * 32}
        assert dict(compute.attributes or {}) == {"pointsman.services": 1, "pointsman.nodes": 1}
        assert dict(ack.attributes or {}) == {"k8s.node.name": "node-a"}
        assert origins(client, 2) == [f"00-{'a' * 32}-{span_id(send):016x}-01"]


async def test_an_unsampled_change_has_no_span_and_keeps_its_context() -> None:
    async with traced() as (world, client):
        await eventually(lambda: world.server.is_converged("node-a"), "first sync")
        world.change("10.1.0.1", UNSAMPLED)
        await eventually(lambda: world.server.is_converged("node-a") and len(client.transactions) == 2, "the change")
        assert world.spans() == ()
        assert origins(client, 2) == [UNSAMPLED]


async def test_changes_that_one_transaction_brings_have_spans_each_linked_through_the_newest() -> None:
    traces = [f"00-{n:032x}-{n:016x}-01" for n in range(1, 6)]
    async with traced(acks=False) as (world, client):
        for number, trace in enumerate(traces):
            world.change(f"10.1.0.{number + 1}", trace)
            # The first two transactions may be on their way at the same time; the third takes the rest.
        await eventually(lambda: len(client.transactions) == 2, "the second transaction")
        await client.send(client.enforcer.ack(2))
        await eventually(lambda: world.server.is_converged("node-a") or len(client.transactions) == 3, "the rest")
        await client.send(client.enforcer.ack(client.transactions[-1]))
        await eventually(lambda: len(world.named("ack")) == 5, "five acks")
        sends = {span.context.trace_id: span for span in world.named("plan.send") if span.context}
        assert sorted(sends) == [1, 2, 3, 4, 5]
        newest = sends[5]
        merged = [span for number, span in sends.items() if number != 5 and span.start_time == newest.start_time]
        assert merged, "a window of two transactions cannot take five changes apart"
        assert {link.context.span_id for link in newest.links} == {span_id(span) for span in merged}
        assert all([link.context.span_id for link in span.links] == [span_id(newest)] for span in merged)
        assert {parent_id(ack) for ack in world.named("ack")} == {span_id(send) for send in sends.values()}


async def test_a_refusal_is_kept_though_nobody_sampled_the_change() -> None:
    async with traced(acks=False) as (world, client):
        await client.send(client.enforcer.ack(1))
        world.change("10.1.0.1", UNSAMPLED)
        await eventually(lambda: len(client.transactions) == 2, "the change")
        name = types_pb2.NamespacedName(namespace="default", name="web")
        failure = pb.ServiceFailure(service=name, stage=pb.ServiceFailure.STAGE_APPLY, message="no room")
        with capture_logs() as lines:
            await client.send(pb.StreamNodePlanRequest(nack=pb.Nack(nonce=2, failures=[failure])))
            await client.send(client.enforcer.ack(2))
            await eventually(lambda: len(world.named("ack")) == 1, "the span of the refusal")
        [line] = [line for line in lines if line["event"] == "node refused a service"]
        assert (line["trace_id"], line["span_id"]) == ("c" * 32, "d" * 16)
        [ack] = world.spans()
        assert ack.context is not None
        assert f"{ack.context.trace_id:032x}" == "c" * 32
        assert ack.status.description == "default/web: apply: no room"


async def test_a_slow_ack_is_kept_though_nobody_sampled_the_change() -> None:
    async with traced(acks=False) as (world, client):
        await client.send(client.enforcer.ack(1))
        world.change("10.1.0.1", UNSAMPLED)
        await eventually(lambda: len(client.transactions) == 2, "the change")
        session = world.server.planner.sessions["node-a"]
        built_ns = session.flights[0].built_ns if session.flights else 0
        clock, bound_ns = SystemClock(), round(change_spans._SLOW_SECONDS * 1e9)
        await eventually(lambda: clock.wall_ns() - built_ns > bound_ns, "slow enough")
        await client.send(client.enforcer.ack(2))
        await eventually(lambda: len(world.named("ack")) == 1, "the span of the slow node")
        [ack] = world.spans()
        assert dict(ack.attributes or {}) == {"k8s.node.name": "node-a", "pointsman.slow": True}


async def test_only_the_first_nodes_of_a_trace_are_followed() -> None:
    spans = ChangeSpans(tracing=Tracing(OtlpTracer("p", {}, exporter=InMemorySpanExporter())), clock=SystemClock())
    for number in range(change_spans.NODES_MAX):
        group, parents = spans.sending(f"node-{number}", [SAMPLED], start_ns=1)
        assert list(group.spans) == [SAMPLED]
        assert parents == {SAMPLED: group.spans[SAMPLED].traceparent}
    group, parents = spans.sending("one-more", [SAMPLED], start_ns=1)
    assert group.spans == {}
    assert parents == {SAMPLED: SAMPLED[:-1] + "0"}, "so that the node makes no spans either"
