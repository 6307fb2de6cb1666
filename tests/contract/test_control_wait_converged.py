# SPDX-License-Identifier: Apache-2.0
"""WaitConverged over real gRPC, with two planners that share a store and scripted enforcers, good and bad."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman.control.v1 import control_service_pb2_grpc as pb_grpc
from pointsman.plan.v1 import plan_service_pb2
from pointsman.types.v1 import types_pb2
from pointsman_model.cluster import ClusterObject, ObjectKey, ObjectKind, ResourceVersions
from pointsman_model.names import ServiceKey
from pointsman_planner.core.override import Drain, Override, OverrideChange, OverrideKey, Selector
from pointsman_planner.store.memory_store import MemoryStore
from support.cluster_objects import endpoint, endpoint_slice, node, service
from support.model_enforcer import ModelEnforcer
from support.plan_server import (
    DEADLINE_SECONDS,
    EnforcerClient,
    PlanServer,
    enforcer_client,
    eventually,
    plan_server,
)

NODES = ("node-a", "node-b", "node-c", "node-d")
WEB, API = service("shop/web", "10.96.0.1", ports=["p:80"]), service("shop/api", "10.96.0.2", ports=["p:80"])


def web_slice(*addresses: str) -> ClusterObject:
    return endpoint_slice("shop/web-x", "web", [endpoint(address) for address in addresses], ["p:8080"])


class Fleet:
    """Two planners of one cluster, their enforcers, and a way to ask either."""

    def __init__(self, first: PlanServer, second: PlanServer, channels: list[grpc.aio.Channel]) -> None:
        self.planners = (first, second)
        self.stubs: list[Any] = [pb_grpc.ControlServiceStub(channel) for channel in channels]
        self.clients: dict[str, EnforcerClient] = {}

    def put(self, *objects: ClusterObject) -> None:
        """Both planners take the change in."""
        for planner in self.planners:
            planner.put(*objects)

    async def wait(self, planner: int = 0, *, seconds: float = DEADLINE_SECONDS, **more: Any) -> Any:
        target: dict[str, Any] = {} if more.keys() & TARGETS else {"now": pb.Now()}
        request = pb.WaitConvergedRequest(**target, **more)
        request.timeout.FromNanoseconds(round(seconds * 1e9))
        return await self.stubs[planner].WaitConverged(request)

    async def laggards(self, planner: int = 0, **more: Any) -> dict[str, Any]:
        answer = await self.wait(planner, seconds=0.0, **more)
        return {laggard.name: laggard for laggard in answer.laggards}


TARGETS = {"service", "resource_versions", "position", "now"}


@asynccontextmanager
async def fleet(*, heartbeat_seconds: float = 0.5, **placed: int) -> AsyncIterator[Fleet]:
    """Nodes a, b, c, d; those named (`a=0`) have an enforcer at that planner."""
    shared = MemoryStore()
    async with AsyncExitStack() as stack:
        planners = [
            await stack.enter_async_context(
                plan_server(planner_id=f"planner-{number}", heartbeat_seconds=heartbeat_seconds, shared=shared)
            )
            for number in (1, 2)
        ]
        channels = [await stack.enter_async_context(grpc.aio.insecure_channel(each.address)) for each in planners]
        made = Fleet(planners[0], planners[1], channels)
        nodes = [node(name, f"192.168.0.{n}", labels={"pool": name[-1]}) for n, name in enumerate(NODES, 2)]
        made.put(*nodes, WEB, API, web_slice("10.1.0.1"))
        for letter, number in placed.items():
            client = await stack.enter_async_context(enforcer_client(planners[number], ModelEnforcer(f"node-{letter}")))
            made.clients[letter] = client
            stack.push_async_callback(_stop, asyncio.create_task(_beat(client)))
        await eventually(
            lambda: all(planners[number].is_converged(f"node-{letter}") for letter, number in placed.items()),
            "first sync",
        )
        yield made


async def _beat(client: EnforcerClient) -> None:
    while True:
        await asyncio.sleep(0.2)
        await client.send(client.enforcer.heartbeat())


async def _stop(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def soon(awaitable: Awaitable[Any]) -> Any:
    async with asyncio.timeout(DEADLINE_SECONDS):
        return await awaitable


SOME = pb.NodeSelector(names=["node-a", "node-b"])


async def test_it_ends_when_every_node_acknowledged_whichever_planner_is_asked() -> None:
    async with fleet(a=0, b=1) as made:
        for client in made.clients.values():
            client.acks = False
        made.put(web_slice("10.1.0.1", "10.1.0.2"))
        waits = [asyncio.create_task(made.wait(number, nodes=SOME)) for number in (0, 1)]
        await eventually(lambda: all(len(c.transactions) == 2 for c in made.clients.values()), "the change is sent")
        await made.clients["a"].send(made.clients["a"].enforcer.ack(2))
        await asyncio.sleep(0.1)
        assert not any(wait.done() for wait in waits)
        await made.clients["b"].send(made.clients["b"].enforcer.ack(2))
        for answer in await soon(asyncio.gather(*waits)):
            assert (answer.converged, answer.nodes, answer.reached, answer.needed) == (True, 2, 2, 2)
            assert not answer.laggards


async def test_a_node_that_the_change_does_not_touch_has_it_without_a_message() -> None:
    async with fleet(a=0, b=1) as made:
        before = [len(client.transactions) for client in made.clients.values()]
        made.put(endpoint_slice("shop/unused", "web", ["10.1.0.9"], ["metrics:9090"]))
        assert (await made.wait(nodes=SOME)).converged
        assert [len(client.transactions) for client in made.clients.values()] == before


async def test_laggards_say_why_frozen_nacking_disconnected_and_never_connected() -> None:
    async with fleet(a=0, b=1, c=1) as made:
        frozen, nacking, leaving = (made.clients[letter] for letter in "abc")
        frozen.acks = False
        nacking.acks = False
        await leaving.close()
        made.put(web_slice("10.1.0.1", "10.1.0.2"))
        await eventually(lambda: len(nacking.transactions) == 2, "the change is sent")
        await nacking.send(nacking.enforcer.nack(2, ServiceKey("shop", "web"), "no room"))
        await nacking.send(_held_back(nacking.enforcer))
        for planner in (0, 1):

            async def is_told(planner: int = planner) -> bool:
                found = await made.laggards(planner)
                states = {name: laggard.state for name, laggard in found.items()}
                return states == {
                    "node-a": pb.NodeStatus.STATE_UNRESPONSIVE,
                    "node-b": pb.NodeStatus.STATE_NACKED,
                    "node-c": pb.NodeStatus.STATE_DISCONNECTED,
                    "node-d": pb.NodeStatus.STATE_DISCONNECTED,
                }

            async with asyncio.timeout(DEADLINE_SECONDS):
                while not await is_told():
                    await asyncio.sleep(0.05)
            found = await made.laggards(planner)
            assert found["node-a"].reason.startswith("acks late: transaction 2 sent ")
            assert found["node-a"].reason.endswith(" ago is not acknowledged")
            assert found["node-b"].reason == "refused shop/web: apply: no room"
            assert found["node-c"].reason.startswith("disconnected: ")
            assert found["node-d"].reason == "never connected"
            assert all(found[name].since.seconds for name in ("node-a", "node-b", "node-c"))
        answer = await made.wait(seconds=0.3)
        assert (answer.converged, answer.nodes, answer.reached, answer.needed) == (False, 4, 0, 4)


def _held_back(enforcer: ModelEnforcer) -> plan_service_pb2.StreamNodePlanRequest:
    """An ack of the last transaction, without the service that was refused."""
    message = enforcer.ack(enforcer.nonce)
    message.ack.programmed_digest = 1
    return message


async def test_another_service_that_a_node_refused_does_not_hold_up_the_one_that_is_waited_for() -> None:
    async with fleet(a=0, b=1) as made:
        refusing = made.clients["b"]
        refusing.acks = False
        made.put(web_slice("10.1.0.1", "10.1.0.3"))
        await eventually(lambda: len(refusing.transactions) == 2, "the change is sent")
        await refusing.send(refusing.enforcer.nack(2, ServiceKey("shop", "api"), "no room"))
        await refusing.send(_held_back(refusing.enforcer))
        for planner in (0, 1):
            assert (await made.wait(planner, nodes=SOME, service=_service("web"))).converged
            assert not (await made.wait(planner, nodes=SOME, service=_service("api"), seconds=0.2)).converged


def _service(name: str, **more: int) -> pb.ServiceTarget:
    return pb.ServiceTarget(name=types_pb2.NamespacedName(namespace="shop", name=name), **more)


async def test_it_ends_under_churn_that_never_ends() -> None:
    async with fleet(heartbeat_seconds=5.0, a=0, b=1) as made:
        is_over = False

        async def churn() -> None:
            number = 0
            while not is_over:
                number += 1
                made.put(web_slice(f"10.2.{number // 250 % 250}.{number % 250 + 1}"))
                await asyncio.sleep(0.002)

        churning = asyncio.create_task(churn())
        try:
            for planner in (0, 1):
                for _ in range(3):
                    answer = await made.wait(planner, nodes=SOME)
                    assert (answer.converged, answer.reached) == (True, 2), answer
        finally:
            is_over = True
            await churning


@pytest.mark.parametrize(("quorum", "needed"), [({"count": 1}, 1), ({"percent": 50}, 2), ({"percent": 26}, 2)])
async def test_a_quorum_is_enough_and_the_rest_is_named(quorum: dict[str, int], needed: int) -> None:
    async with fleet(a=0, b=1) as made:
        answer = await made.wait(**quorum)
        assert (answer.converged, answer.needed, answer.nodes) == (True, needed, 4)
        assert needed <= answer.reached == 4 - len(answer.laggards)
        assert {"node-c", "node-d"} <= {laggard.name for laggard in answer.laggards}


async def test_nodes_are_chosen_by_labels_and_those_that_go_stop_counting() -> None:
    async with fleet(a=0) as made:
        selector = pb.NodeSelector(label_selector="pool in (a, d)")
        waiting = asyncio.create_task(made.wait(nodes=selector))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        for planner in made.planners:
            planner.remove(ObjectKey(ObjectKind.NODE, "", "node-d"))
        answer = await soon(waiting)
        assert (answer.converged, answer.nodes) == (True, 1)
        named = await made.wait(nodes=pb.NodeSelector(names=["node-a", "node-x"]), seconds=0.1)
        assert [(each.name, each.reason) for each in named.laggards] == [("node-x", "there is no node of this name")]


async def test_a_write_that_the_planner_has_not_read_yet_is_waited_for() -> None:
    async with fleet(a=0, b=1) as made:
        waits = [
            asyncio.create_task(made.wait(number, nodes=SOME, **target))
            for number in (0, 1)
            for target in (
                {"service": _service("web", endpoint_slice_resource_version=70)},
                {"resource_versions": types_pb2.ResourceVersions(endpoint_slices=70)},
            )
        ]
        await asyncio.sleep(0.2)
        assert not any(wait.done() for wait in waits)
        laggards = await made.laggards(nodes=SOME, service=_service("web", endpoint_slice_resource_version=70))
        assert "has not read it from the API server yet" in laggards["node-a"].reason
        for planner in made.planners:
            planner.versions = ResourceVersions(endpoint_slices=71)
        made.put(web_slice("10.1.0.1", "10.1.0.4"))
        assert all(answer.converged for answer in await soon(asyncio.gather(*waits)))


async def test_a_position_of_one_planner_is_understood_by_another_with_another_watcher() -> None:
    async with fleet(a=0, b=1) as made:
        first, second = made.planners
        for planner, epoch in ((first, "watcher-1"), (second, "watcher-2")):
            planner.epoch, planner.versions = epoch, ResourceVersions(services=50, endpoint_slices=60)
        second.revision = 700
        made.put(web_slice("10.1.0.1", "10.1.0.5"))
        position = (await made.wait(0, nodes=SOME)).position
        assert (position.epoch, position.resource_versions.endpoint_slices) == ("watcher-1", 60)
        assert (await made.wait(1, nodes=SOME, position=position)).converged
        position.ClearField("resource_versions")
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await made.wait(1, nodes=SOME, position=position)
        assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_an_override_is_waited_for_though_the_api_server_says_nothing_new() -> None:
    async with fleet(a=0, b=1) as made:
        made.put(web_slice("10.1.0.1", "10.1.0.2"))
        assert (await made.wait(nodes=SOME)).converged
        for client in made.clients.values():
            client.acks = False
        key = OverrideKey("shop", "drain")
        drain = Drain(endpoints=Selector(address=bytes((10, 1, 0, 2))))
        override = Override(key=key, owner="test", kind=drain, service_name="web", etag="1")
        for planner in made.planners:
            planner.plans.override([OverrideChange(key, override)])
        assert set(await made.laggards(nodes=SOME, service=_service("web"))) == {"node-a", "node-b"}
        for client in made.clients.values():
            await eventually(lambda client=client: len(client.transactions) == 3, "the drain is sent")  # type: ignore[misc] # bound now
            await client.send(client.enforcer.ack(3))
        for planner_number in (0, 1):
            assert (await made.wait(planner_number, nodes=SOME)).converged


async def test_levels_that_no_enforcer_acknowledged_are_not_reached() -> None:
    async with fleet(a=0) as made:
        chosen = pb.NodeSelector(names=["node-a"])
        level = plan_service_pb2.ACK_LEVEL_VERIFIED
        answer = await made.wait(nodes=chosen, level=level, seconds=0.1)
        assert [laggard.reason for laggard in answer.laggards] == ["programmed, and not acknowledged as verified"]
        client = made.clients["a"]
        verified = client.enforcer.ack(client.enforcer.nonce)
        verified.ack.level = level
        await client.send(verified)
        assert (await made.wait(nodes=chosen, level=level)).converged


@pytest.mark.parametrize(
    "request_",
    [
        pb.WaitConvergedRequest(),
        pb.WaitConvergedRequest(now=pb.Now(), count=0),
        pb.WaitConvergedRequest(now=pb.Now(), percent=101),
        pb.WaitConvergedRequest(now=pb.Now(), timeout=Duration(seconds=601)),
        pb.WaitConvergedRequest(now=pb.Now(), timeout=Duration(seconds=-1)),
        pb.WaitConvergedRequest(now=pb.Now(), nodes=pb.NodeSelector(label_selector="pool=z")),
        pb.WaitConvergedRequest(now=pb.Now(), nodes=pb.NodeSelector(label_selector="pool=")),
        pb.WaitConvergedRequest(now=pb.Now(), nodes=pb.NodeSelector(names=["x"] * 5001)),
        pb.WaitConvergedRequest(service=pb.ServiceTarget()),
        pb.WaitConvergedRequest(resource_versions=types_pb2.ResourceVersions()),
    ],
)
async def test_a_wait_that_cannot_be_is_an_invalid_argument(request_: pb.WaitConvergedRequest) -> None:
    async with fleet() as made:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await made.stubs[0].WaitConverged(request_)
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
