# SPDX-License-Identifier: Apache-2.0
"""A traced change has spans for computing, sending and the node's ack, all under the change's own trace."""

from typing import Any

from pointsman_chassis.tracing import Span, Tracing, UnsampledSpan
from support.cluster_objects import endpoint_slice, node, service
from support.model_enforcer import ModelEnforcer
from support.plan_server import enforcer_client, eventually, plan_server

SAMPLED = f"00-{'a' * 32}-{'b' * 16}-01"
UNSAMPLED = f"00-{'c' * 32}-{'d' * 16}-00"


class RecordingTracing(Tracing):
    """Remembers name and parent of every span that was asked for."""

    def __init__(self) -> None:
        super().__init__(None)
        self.spans: list[tuple[str, str]] = []

    def span(self, name: str, *, parent: str, **_more: Any) -> Span:
        self.spans.append((name, parent))
        return UnsampledSpan(parent)


async def test_spans_of_a_sampled_change_and_none_of_an_unsampled_one() -> None:
    tracing = RecordingTracing()
    async with plan_server() as server:
        server.plans._tracing = tracing
        async with enforcer_client(server, ModelEnforcer("node-a")):
            server.put(node("node-a", "192.168.0.2"), service("web", "10.96.0.1", ports=["p:80"]))
            await eventually(lambda: server.is_converged("node-a"), "first sync")
            assert tracing.spans == []
            server.put(endpoint_slice("web-x", "web", ["10.1.0.1"], ["p:80"]), traceparent=SAMPLED)
            await eventually(lambda: len(tracing.spans) == 3, "three spans")
            assert {parent for _, parent in tracing.spans} == {SAMPLED}
            assert {name for name, _ in tracing.spans} == {"plan.compute", "plan.send", "ack"}
            server.put(endpoint_slice("web-x", "web", ["10.1.0.2"], ["p:80"]), traceparent=UNSAMPLED)
            await eventually(lambda: server.is_converged("node-a"), "the unsampled change")
            assert len(tracing.spans) == 3


async def test_traces_of_merged_changes_are_all_followed_up() -> None:
    tracing = RecordingTracing()
    traces = [f"00-{n:032x}-{n:016x}-01" for n in range(1, 6)]
    async with plan_server() as server:
        server.plans._tracing = tracing
        async with enforcer_client(server, ModelEnforcer("node-a"), acks=False) as client:
            server.put(service("web", "10.96.0.1", ports=["p:80"]))
            await eventually(lambda: len(client.transactions) == 1, "first transaction")
            for number, trace in enumerate(traces):
                item = endpoint_slice("web-x", "web", [f"10.1.0.{number + 1}"], ["p:80"])
                server.put(item, traceparent=trace)
            await eventually(lambda: len(client.transactions) == 2, "the merged transaction")
            await client.send(client.enforcer.ack(2))
            await eventually(lambda: len([1 for name, _ in tracing.spans if name == "ack"]) == 5, "five acks")
            assert [parent for name, parent in tracing.spans if name == "plan.send"] == traces
