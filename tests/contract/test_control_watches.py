# SPDX-License-Identifier: Apache-2.0
"""The watches of ControlService over real gRPC: snapshot, synced, changes; resume or a reset; slow readers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

import grpc
import grpc.aio
import pytest

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman.control.v1 import control_service_pb2_grpc as pb_grpc
from pointsman.types.v1 import types_pb2
from pointsman_model.cluster import ObjectKey, ObjectKind
from pointsman_model.names import ServiceKey, format_address
from pointsman_planner.api import control_watch
from support.cluster_objects import endpoint, endpoint_slice, node, service
from support.model_enforcer import ModelEnforcer
from support.plan_server import DEADLINE_SECONDS, PlanServer, enforcer_client, eventually, plan_server

WEB = service("shop/web", "10.96.0.1", ports=["p:80"], labels={"tier": "front"})
API = service("shop/api", "10.96.0.2", ports=["p:80"])
DNS = service("kube-system/dns", "10.96.0.10", ports=["p:53"])
NODE_A, NODE_B = node("node-a", "192.168.0.2", zone="a"), node("node-b", "192.168.0.3", labels={"pool": "edge"})


def web_slice(*addresses: str, **more: Any) -> Any:
    return endpoint_slice("shop/web-x", "web", [endpoint(address, **more) for address in addresses], ["p:8080"])


class Watch:
    """A client that follows the protocol: holds things by name, drops at synced what a snapshot did not name."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.held: dict[str, Any] = {}
        self.token = ""
        self.start = 0
        self.messages = 0
        self._named: set[str] | None = None
        self.revision = 0

    async def read(self) -> str:
        """Take in one message; says which it was."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            message = await self.call.read()
        assert message is not grpc.aio.EOF, "the watch ended"
        kind = message.WhichOneof("message")
        self.messages += 1
        if kind == "opened":
            self.start = message.opened.start
            self._named = set() if self.start == pb.WatchOpened.START_SNAPSHOT else None
        elif kind == "changes":
            self._take(message.changes)
        else:
            self.token = getattr(message, kind).resume_token
            self.revision = getattr(message, kind).position.revision
        if kind == "synced" and self._named is not None:
            self.held = {name: value for name, value in self.held.items() if name in self._named}
        return kind

    def _take(self, changes: Any) -> None:
        for value in changes.nodes if isinstance(changes, pb.NodeChanges) else changes.services:
            self.held[_name(value)] = value
            if self._named is not None:
                self._named.add(_name(value))
        for name in changes.removals:
            self.held.pop(name if isinstance(name, str) else f"{name.namespace}/{name.name}", None)
        self.token = changes.resume_token or self.token
        self.revision = changes.position.revision or self.revision

    async def until(self, kind: str) -> None:
        while await self.read() != kind:
            pass


def _name(value: Any) -> str:
    if isinstance(value, pb.NodeStatus):
        return value.name
    name = value.service if isinstance(value, pb.ServiceEndpoints) else value.service.name
    return f"{name.namespace}/{name.name}"


@asynccontextmanager
async def world(*, heartbeat_seconds: float = 5.0) -> AsyncIterator[tuple[PlanServer, Any]]:
    async with (
        plan_server(heartbeat_seconds=heartbeat_seconds) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        server.put(WEB, API, DNS, NODE_A, NODE_B, web_slice("10.1.0.1", node="node-a"))
        yield server, pb_grpc.ControlServiceStub(channel)


async def synced(call: Any) -> Watch:
    watch = Watch(call)
    await watch.until("synced")
    return watch


async def test_services_begin_with_all_and_follow_changes_and_removals() -> None:
    async with world() as (server, stub):
        watch = await synced(stub.WatchServices(pb.WatchServicesRequest(namespace="shop")))
        assert set(watch.held) == {"shop/web", "shop/api"}
        assert watch.revision == server.revision
        server.put(web_slice("10.1.0.1", "10.1.0.2"), service("kube-system/more", "10.96.0.11"))
        await watch.until("changes")
        assert watch.held["shop/web"].endpoints == 2
        assert watch.revision == server.revision
        server.remove(ObjectKey(ObjectKind.SERVICE, "shop", "api"))
        await watch.until("changes")
        assert set(watch.held) == {"shop/web"}


async def test_a_service_that_loses_its_label_is_removed_and_others_are_not_told_of() -> None:
    async with world() as (server, stub):
        watch = await synced(stub.WatchServices(pb.WatchServicesRequest(label_selector="tier=front")))
        assert set(watch.held) == {"shop/web"}
        server.put(service("shop/api", "10.96.0.2", ports=["p:81"]))
        server.put(service("shop/web", "10.96.0.1", ports=["p:80"], labels={"tier": "back"}))
        before = watch.messages
        await watch.until("changes")
        assert (watch.held, watch.messages - before) == ({}, 1)


async def test_a_fact_that_no_plan_uses_is_a_change_all_the_same() -> None:
    async with world() as (server, stub):
        watch = await synced(stub.WatchServices(pb.WatchServicesRequest()))
        server.put(endpoint_slice("shop/other-port", "web", ["10.1.0.9"], ["metrics:9090"]))
        await watch.until("changes")
        assert watch.held["shop/web"].endpoints == 2


async def test_a_watch_that_comes_back_gets_what_it_missed_and_nothing_else() -> None:
    async with world() as (server, stub):
        call = stub.WatchServices(pb.WatchServicesRequest())
        watch = await synced(call)
        call.cancel()
        server.put(service("shop/new", "10.96.0.7"))
        server.remove(ObjectKey(ObjectKind.SERVICE, "shop", "api"))
        again = Watch(stub.WatchServices(pb.WatchServicesRequest(resume_token=watch.token)))
        again.held = dict(watch.held)
        await again.until("synced")
        assert again.start == pb.WatchOpened.START_RESUME
        assert set(again.held) == {"shop/web", "shop/new", "kube-system/dns"}
        assert again.messages == 3, "opened, one message of changes, synced"


@pytest.mark.parametrize("token", ["nobody.7", "???", "x" * 5000])
async def test_a_token_that_is_not_known_begins_anew_and_drops_what_is_gone(token: str) -> None:
    async with world() as (_, stub):
        watch = Watch(stub.WatchServices(pb.WatchServicesRequest(resume_token=token)))
        watch.held = {"shop/ghost": pb.ServiceSummary()}
        await watch.until("synced")
        assert watch.start == pb.WatchOpened.START_SNAPSHOT
        assert set(watch.held) == {"shop/web", "shop/api", "kube-system/dns"}


async def test_heartbeats_prove_that_a_silent_watch_lives_and_move_the_token() -> None:
    async with world(heartbeat_seconds=0.1) as (server, stub):
        call = stub.WatchServices(pb.WatchServicesRequest(namespace="shop"))
        watch = await synced(call)
        first = watch.token
        server.put(service("kube-system/more", "10.96.0.11"))
        await watch.until("heartbeat")
        while watch.token == first:
            await watch.until("heartbeat")
        assert watch.revision == server.revision


async def test_a_slow_reader_gets_the_newest_state_and_not_every_one() -> None:
    names = [f"shop/s{number}" for number in range(300)]
    async with world() as (server, stub):
        padding = {f"pad-{number}": "x" * 60 for number in range(30)}
        call = stub.WatchServices(pb.WatchServicesRequest())
        watch = await synced(call)
        rounds = 40
        for round_ in range(rounds):
            labels = {**padding, "round": str(round_)}
            server.put(*(service(name, f"10.96.7.{index % 250}", labels=labels) for index, name in enumerate(names)))
            await asyncio.sleep(0)
        read = 0
        last = str(rounds - 1)
        while {watch.held[name].service.labels["round"] for name in names if name in watch.held} != {last}:
            await watch.read()
            read += 1
        assert len(names) == sum(name in watch.held for name in names)
        # How many go out while nobody reads is the transport's business; all of them, each a message at least, do not.
        assert read < rounds, "rounds were left out"


async def test_a_snapshot_of_many_comes_in_messages_of_bounded_size() -> None:
    async with world() as (server, stub):
        padding = {f"pad-{number}": "x" * 60 for number in range(200)}
        server.put(*(service(f"shop/s{n}", f"10.96.8.{n % 250}", labels=padding) for n in range(450)))
        call = stub.WatchServices(pb.WatchServicesRequest())
        sizes, kind, count = [], "", 0
        while kind != "synced":
            message = await call.read()
            kind = message.WhichOneof("message")
            sizes.append(message.ByteSize())
            count += len(message.changes.services)
        assert max(sizes) <= 1 << 20
        assert count == 453


async def test_endpoints_follow_the_service_and_the_node_that_looks_at_it() -> None:
    async with world() as (server, stub):
        name = types_pb2.NamespacedName(namespace="shop", name="web")
        server.put(web_slice("10.1.0.1", zone_hints=["a"]))
        watch = await synced(stub.WatchEndpoints(pb.WatchEndpointsRequest(service=name, node_name="node-b")))
        assert set(watch.held) == {"shop/web"}
        assert _fates(watch) == {"10.1.0.1": [pb.EndpointState.SET_CLUSTER]}
        server.put(web_slice("10.1.0.1", "10.1.0.2", zone_hints=["a"]))
        await watch.until("changes")
        assert len(_fates(watch)) == 2
        hinted = [endpoint("10.1.0.1", zone_hints=["a"]), endpoint("10.1.0.2", zone_hints=["b"])]
        server.put(endpoint_slice("shop/web-x", "web", hinted, ["p:80"]))
        await watch.until("changes")
        server.put(node("node-b", "192.168.0.3", zone="b"))
        await watch.until("changes")
        assert _fates(watch) == {
            "10.1.0.1": [pb.Exclusion.CAUSE_ZONE_HINTS],
            "10.1.0.2": [pb.EndpointState.SET_CLUSTER],
        }
        server.put(API)
        server.remove(ObjectKey(ObjectKind.SERVICE, "shop", "web"))
        await watch.until("changes")
        assert watch.held == {}


def _fates(watch: Watch) -> dict[str, list[int]]:
    (port,) = watch.held["shop/web"].ports
    return {
        format_address(each.facts.address): [*each.sets, *(absence.cause for absence in each.absences)]
        for each in port.endpoints
    }


async def test_nodes_show_each_step_of_a_node() -> None:
    async with world() as (server, stub):
        watch = await synced(stub.WatchNodes(pb.WatchNodesRequest()))
        assert {name: each.state for name, each in watch.held.items()} == dict.fromkeys(
            ("node-a", "node-b"), pb.NodeStatus.STATE_DISCONNECTED
        )
        assert watch.held["node-a"].reason == "never connected"
        async with enforcer_client(server, ModelEnforcer("node-a"), acks=False) as client:
            while watch.held["node-a"].state != pb.NodeStatus.STATE_STALE:
                await watch.until("changes")
            await eventually(lambda: len(client.transactions) == 1, "first transaction")
            await client.send(client.enforcer.ack(1))
            while watch.held["node-a"].state != pb.NodeStatus.STATE_SYNCED:
                await watch.until("changes")
            await client.send(client.enforcer.nack(1, ServiceKey("shop", "web"), "no such thing"))
            while watch.held["node-a"].state != pb.NodeStatus.STATE_NACKED:
                await watch.until("changes")
            assert watch.held["node-a"].reason == "1 service refused: shop/web: apply: no such thing"
        while watch.held["node-a"].state != pb.NodeStatus.STATE_DISCONNECTED:
            await watch.until("changes")
        assert watch.held["node-a"].reason.startswith("disconnected: ")
        server.remove(ObjectKey(ObjectKind.NODE, "", "node-a"))
        while "node-a" in watch.held:
            await watch.until("changes")


async def test_a_watch_of_some_nodes_is_not_told_of_the_others() -> None:
    async with world() as (server, stub):
        selector = pb.NodeSelector(label_selector="pool=edge")
        watch = await synced(stub.WatchNodes(pb.WatchNodesRequest(nodes=selector)))
        assert set(watch.held) == {"node-b"}
        before = watch.messages
        async with enforcer_client(server, ModelEnforcer("node-a")):
            await eventually(lambda: server.is_converged("node-a"), "another node")
            server.put(node("node-b", "192.168.0.3", labels={"pool": "core"}))
            while watch.held:
                await watch.until("changes")
        # At the most one message says of node-a that it is not selected; it is never sent as a node.
        assert watch.messages - before <= 2


@pytest.mark.parametrize(
    ("call", "request_"),
    [
        ("WatchServices", pb.WatchServicesRequest(label_selector="a=b=c")),
        ("WatchNodes", pb.WatchNodesRequest(nodes=pb.NodeSelector(label_selector="((("))),
        ("WatchNodes", pb.WatchNodesRequest(nodes=pb.NodeSelector(names=["x"] * 5001))),
        ("WatchEndpoints", pb.WatchEndpointsRequest(service=types_pb2.NamespacedName(name="web"))),
    ],
)
async def test_what_cannot_be_watched_is_an_invalid_argument(call: str, request_: Any) -> None:
    async with world() as (_, stub):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await getattr(stub, call)(request_).read()
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_planner_that_goes_away_sends_its_watchers_to_another_one() -> None:
    async with plan_server() as server, grpc.aio.insecure_channel(server.address) as channel:
        server.put(WEB)
        stub: Any = pb_grpc.ControlServiceStub(channel)
        call = stub.WatchServices(pb.WatchServicesRequest())
        await synced(call)
        server.control.close()
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.WatchServices(pb.WatchServicesRequest()).read()
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_number_of_watches_is_bounded_and_counted() -> None:
    async with world() as (server, stub):
        with patch.object(control_watch, "WATCHES_MAX", 1):
            call = stub.WatchServices(pb.WatchServicesRequest())
            await synced(call)
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await stub.WatchNodes(pb.WatchNodesRequest()).read()
            assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert server.registry.value("pointsman_planner_control_watches") == 1
            call.cancel()
            await eventually(lambda: server.registry.value("pointsman_planner_control_watches") == 0, "a free place")
            await synced(stub.WatchNodes(pb.WatchNodesRequest()))
        assert server.registry.value("pointsman_planner_control_refused_total", {"reason": "too_many"}) == 1


async def test_watches_fail_before_the_planner_is_in_sync() -> None:
    async with plan_server() as server, grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = pb_grpc.ControlServiceStub(channel)
        for call in (
            stub.WatchServices(pb.WatchServicesRequest()),
            stub.WatchEndpoints(pb.WatchEndpointsRequest()),
            stub.WatchNodes(pb.WatchNodesRequest()),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await call.read()
            assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION
