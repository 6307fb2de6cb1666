# SPDX-License-Identifier: Apache-2.0
"""Requests to the control API: an answer, or a status that says what is wrong with the request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, NoReturn

import grpc
from fuzz.harness import Target
from fuzz.mutation import mutated_bytes, mutated_message
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from hypothesis import strategies as st

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman.plan.v1 import plan_service_pb2 as plan_pb
from pointsman.types.v1 import types_pb2
from pointsman_model.names import parse_address
from support.cluster_objects import endpoint, endpoint_slice, node, service, service_cidr
from support.plan_server import PlanServer

_OBJECTS = (
    node("node-a", "192.168.0.2", zone="a"),
    node("node-b", "192.168.0.3", zone="b"),
    service_cidr("kubernetes", "10.96.0.0/16"),
    service("shop/web", "10.96.0.1", ports=["p:80"], node_ports={"p": 30080}, load_balancer_ips=["1.2.3.4"]),
    endpoint_slice("shop/web-x", "web", [endpoint("10.1.0.1", node="node-a", zone_hints=["a"])], ["p:8080"]),
    service("shop/api", "10.96.0.2", external_ips=["10.96.0.1"]),
)
_REFUSALS = frozenset(
    {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION}
)
_TOKEN = "c2hvcAB3ZWI="  # noqa: S105 - a page token
_RESUME = "e.1"
_WEB = types_pb2.NamespacedName(namespace="shop", name="web")
_POSITION = plan_pb.Position(
    epoch="other", revision=7, resource_versions=types_pb2.ResourceVersions(services=9), overrides=1
)
_AT_ONCE = Duration()
_REQUESTS: tuple[tuple[str, Message], ...] = (
    ("GetEndpoints", pb.GetEndpointsRequest(service=_WEB, node_name="node-a")),
    ("GetNode", pb.GetNodeRequest(node_name="node-a")),
    ("ListNodes", pb.ListNodesRequest(nodes=pb.NodeSelector(names=["node-a"], label_selector="a=b,c in (d)"))),
    ("WaitConverged", pb.WaitConvergedRequest(position=_POSITION, timeout=_AT_ONCE, percent=50)),
    (
        "WaitConverged",
        pb.WaitConvergedRequest(
            service=pb.ServiceTarget(name=_WEB, service_resource_version=1), timeout=_AT_ONCE, count=1, level=1
        ),
    ),
    ("WatchServices", pb.WatchServicesRequest(namespace="shop", label_selector="a!=b", resume_token=_RESUME)),
    ("WatchEndpoints", pb.WatchEndpointsRequest(service=_WEB, node_name="node-a", resume_token=_RESUME)),
    ("WatchNodes", pb.WatchNodesRequest(nodes=pb.NodeSelector(label_selector="!a"), resume_token=_RESUME)),
    ("ListServices", pb.ListServicesRequest(page_size=1, page_token=_TOKEN, namespace="shop")),
    (
        "GetService",
        pb.GetServiceRequest(name=types_pb2.NamespacedName(namespace="shop", name="web"), node_name="node-a"),
    ),
    ("ListNodes", pb.ListNodesRequest(page_size=1, page_token=_TOKEN)),
    ("GetNodePlan", pb.GetNodePlanRequest(node_name="node-a", page_size=1, page_token=_TOKEN)),
    (
        "ExplainPacket",
        pb.ExplainPacketRequest(
            node_name="node-a",
            source_address=parse_address("10.1.0.9"),
            destination_address=parse_address("10.96.0.1"),
            destination_port=80,
            protocol=types_pb2.PROTOCOL_TCP,
            source=pb.ExplainPacketRequest.SOURCE_POD,
        ),
    ),
)


class _AbortedError(Exception):
    """What grpc raises out of `abort`."""


class _Context:
    """The part of a servicer context that handlers use."""

    def __init__(self) -> None:
        self.code: grpc.StatusCode | None = None
        self.details = ""

    async def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        self.code, self.details = code, details
        raise _AbortedError


def _values(case: tuple[str, Message]) -> st.SearchStrategy[tuple[str, bytes]]:
    method, sound = case
    return st.tuples(
        st.just(method),
        st.one_of(
            mutated_message(st.just(sound)).map(lambda found: found.SerializeToString()),
            mutated_bytes(st.just(sound.SerializeToString())),
        ),
    )


async def _call(method: Callable[[Any, Any], Any], request: Message) -> None:
    context = _Context()
    if isinstance(request, pb.WaitConvergedRequest):
        request.timeout.CopyFrom(_AT_ONCE)
    try:
        answer = await _answer(method(request, context))
    except _AbortedError:
        assert context.code in _REFUSALS, context.details
        assert context.details
        return
    assert context.code is None
    answer.SerializeToString()


async def _answer(call: Awaitable[Message] | AsyncGenerator[Message]) -> Message:
    """The answer, or the first message of a watch."""
    if not isinstance(call, AsyncGenerator):
        return await call
    async with aclosing(call) as messages:
        return await anext(messages)


def check(value: tuple[str, bytes]) -> None:
    """Documented statuses only, and the service says the same as before to a sound request."""
    method, data = value
    server = PlanServer(heartbeat_seconds=5.0)
    server.put(*_OBJECTS)
    control = server.control
    kind = type(dict(_REQUESTS)[method])  # requests of one method are of one type
    try:
        request = kind.FromString(data)
    except DecodeError:
        return
    asyncio.run(_call(getattr(control, method), request))


TARGETS = (
    Target(name="planner: control API", values=st.sampled_from(_REQUESTS).flatmap(_values), check=check, examples=150),
)
