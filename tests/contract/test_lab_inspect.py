# SPDX-License-Identifier: Apache-2.0
"""The lab's questions to a planner, answered in words by a real one."""

import json

import grpc.aio
import pytest

from pointsman_lab.inspect import answer
from support.cluster_objects import endpoint, endpoint_slice, node, service
from support.model_enforcer import ModelEnforcer
from support.plan_server import enforcer_client, eventually, plan_server

OBJECTS = (
    node("node-1", "192.168.0.2"),
    node("node-2", "192.168.0.3"),
    service("shop/web", "10.96.0.1", ports=["p:80"], node_ports={"p": 30080}, external_local=True),
    endpoint_slice(
        "shop/web-x",
        "web",
        [endpoint("10.1.0.1", node="node-1"), endpoint("10.1.0.2", node="node-2", ready=False)],
        ["p:8080", "metrics:9090"],
    ),
)


async def test_nodes_endpoints_waits_plans_and_packets_are_told_in_words() -> None:
    async with plan_server() as server, grpc.aio.insecure_channel(server.address) as channel:
        server.put(*OBJECTS)
        async with enforcer_client(server, ModelEnforcer("node-1")):
            await eventually(lambda: server.is_converged("node-1"), "first sync")
            nodes = [json.loads(line) for line in await answer(channel, ["nodes"])]
            assert [(each["name"], each["state"], each["reason"]) for each in nodes] == [
                ("node-1", "synced", ""),
                ("node-2", "disconnected", "never connected"),
            ]
            assert await answer(channel, ["wait", "shop/web", "0.1"]) == [
                "1 of 2 nodes have it",
                "  node-2 disconnected: never connected",
            ]
            plan = json.loads("".join(await answer(channel, ["plan", "node-1"])))
            assert [each["name"]["name"] for each in plan["services"]] == ["web"]
        remote = "traffic policy is Local, and the endpoint is on node node-1"
        assert await answer(channel, ["endpoints", "shop/web", "node-2"]) == [
            "port p 80/TCP",
            f"  10.1.0.1 port 8080: in cluster; not in local: {remote}",
            "  10.1.0.2 port 8080: not in cluster: not ready; not in local: not ready",
            "unused 10.1.0.1 port 9090: the Service has no TCP port named 'metrics'",
            "unused 10.1.0.2 port 9090: the Service has no TCP port named 'metrics'",
        ]
        explained = await answer(channel, ["explain", "node-1", "10.1.0.9", "10.96.0.1", "80/TCP"])
        assert explained[0].endswith(": FORWARD")


@pytest.mark.parametrize("question", [["wait", "web", "1"], ["endpoints", "shop/", "node-1"], ["wait", "a/b", "soon"]])
async def test_a_malformed_question_is_refused(question: list[str]) -> None:
    async with plan_server() as server, grpc.aio.insecure_channel(server.address) as channel:
        server.put(*OBJECTS)
        with pytest.raises(ValueError, match=r"NAMESPACE/NAME|soon"):
            await answer(channel, question)
