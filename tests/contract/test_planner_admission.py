# SPDX-License-Identifier: Apache-2.0
"""A herd of nodes: so many are brought up to date at once, those that agree pass, the rest wait or come back later."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import grpc.aio

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_model.cluster import ClusterObject
from pointsman_planner.core.admission import AdmissionLimits
from support.cluster_objects import endpoint_slice, node, service
from support.model_enforcer import ModelEnforcer
from support.plan_server import EnforcerClient, PlanServer, enforcer_client, eventually, plan_server

NAMES = [f"node-{number}" for number in range(8)]
SLOTS = "pointsman_planner_syncing_nodes"
WAITING = "pointsman_planner_waiting_nodes"


def objects() -> list[ClusterObject]:
    made: list[ClusterObject] = [node(name, f"192.168.0.{number + 1}") for number, name in enumerate(NAMES)]
    for number in range(100):
        made.append(service(f"shop/web-{number}", f"10.96.0.{number + 1}", ports=["p:80"]))
        made.append(endpoint_slice(f"shop/web-{number}-x", f"web-{number}", ["10.1.0.1"], ["p:80"]))
    return made


def limits(**values: float) -> AdmissionLimits:
    return AdmissionLimits(**{"slots": 2, "waiting_max": 10, "free_buckets": 8} | values)


@asynccontextmanager
async def herd(
    server: PlanServer, names: Sequence[str], *, acks: bool = False
) -> AsyncIterator[dict[str, EnforcerClient]]:
    """Cold enforcers that dial one after the other and, unless told to, do not acknowledge."""
    async with AsyncExitStack() as stack:
        clients: dict[str, EnforcerClient] = {}
        for name in names:
            client = await stack.enter_async_context(enforcer_client(server, ModelEnforcer(name), acks=acks))
            await eventually(lambda client=client: bool(client.responses), "the welcome")
            clients[name] = client
        yield clients


def served(clients: dict[str, EnforcerClient]) -> set[str]:
    return {name for name, client in clients.items() if client.transactions}


async def test_nodes_wait_for_their_turn_in_order_and_have_heartbeats_meanwhile() -> None:
    async with plan_server(heartbeat_seconds=0.4, limits=limits()) as server:
        server.put(*objects())
        async with herd(server, NAMES[:5]) as clients:
            await eventually(lambda: served(clients) == {"node-0", "node-1"}, "two have slots")
            waiting = clients["node-4"]
            await eventually(lambda: any(each.HasField("heartbeat") for each in waiting.responses), "a heartbeat")
            assert not waiting.responses[-1].heartbeat.HasField("position")
            assert (server.registry.value(SLOTS), server.registry.value(WAITING)) == (2, 3)
            for name, following in (("node-1", "node-2"), ("node-0", "node-3"), ("node-3", "node-4")):
                client = clients[name]
                await client.send(client.enforcer.ack(client.transactions[0]))
                await eventually(lambda name=following: name in served(clients), "the next one has its slot")
            assert server.registry.value(WAITING) == 0


async def test_a_node_that_agrees_does_not_wait_and_changes_reach_those_that_are_served() -> None:
    async with plan_server(limits=limits(slots=1)) as server:
        server.put(*objects())
        agreeing = ModelEnforcer("node-7")
        async with enforcer_client(server, agreeing) as client:
            await eventually(lambda: server.is_converged("node-7"), "it has everything")
            await client.close()
        await eventually(lambda: not server.planner.sessions, "it is gone")
        async with herd(server, NAMES[:3]) as clients, enforcer_client(server, agreeing) as client:
            await eventually(lambda: server.is_converged("node-7"), "it passes all that wait")
            assert served(clients) == {"node-0"}
            server.put(endpoint_slice("shop/web-1-x", "web-1", ["10.1.0.9"], ["p:80"]))
            await eventually(lambda: len(client.transactions) == 2 and agreeing.agrees, "a change reaches it")
            assert served(clients) == {"node-0"}


async def test_what_changed_while_a_node_waited_is_in_its_first_transaction() -> None:
    async with plan_server(limits=limits(slots=1)) as server:
        server.put(*objects())
        async with herd(server, NAMES[:2]) as clients:
            server.put(endpoint_slice("shop/web-2-x", "web-2", ["10.1.0.7"], ["p:80"]))
            first, second = clients.values()
            await first.send(first.enforcer.ack(first.transactions[0]))
            await eventually(lambda: bool(second.transactions), "its turn")
            assert second.enforcer.agrees
            assert second.enforcer.digest == server.planner.digest("node-1")


async def test_a_slot_is_free_again_when_its_node_goes_or_takes_too_long() -> None:
    async with plan_server(heartbeat_seconds=0.4, limits=limits(slots=1, slot_seconds=1.0)) as server:
        server.put(*objects())
        async with herd(server, NAMES[:3]) as clients:
            await clients["node-0"].close()
            await eventually(lambda: served(clients) == {"node-0", "node-1"}, "the next one has its slot")
            for client in clients.values():
                await client.send(client.enforcer.heartbeat()) if client is not clients["node-0"] else None
            await eventually(lambda: "node-2" in served(clients), "a slow one does not hold up the others")


async def test_before_the_planner_is_in_sync_all_wait_and_then_so_many_are_let_in() -> None:
    async with plan_server(limits=limits()) as server, herd(server, NAMES[:4]) as clients:
        assert server.registry.value(WAITING) == 0
        server.put(*objects())
        await eventually(lambda: len(served(clients)) == 2, "two have slots")
        assert server.registry.value(WAITING) == 2


async def test_more_than_may_wait_are_told_to_come_back_each_at_another_time() -> None:
    async with plan_server(heartbeat_seconds=0.4, limits=limits(slots=1, waiting_max=1)) as server:
        server.put(*objects())
        async with herd(server, NAMES) as clients:
            refused = [clients[name] for name in NAMES[2:]]
            await eventually(lambda: all(len(each.responses) > 1 for each in refused), "they are told")
            redirects = [each.responses[1].redirect for each in refused]
            assert {redirect.reason for redirect in redirects} == {pb.Redirect.REASON_OVERLOADED}
            delays = {redirect.delay.ToNanoseconds() / 1e9 for redirect in redirects}
            assert len(delays) == len(refused)
            assert all(5.0 <= delay <= 11.0 for delay in delays)
            assert served(clients) == {"node-0"}
            assert server.registry.value("pointsman_planner_redirects_total", {"reason": "overloaded"}) == 6
            ended = [await each.status() for each in refused[:2]]
            assert {status for status, _ in ended} == {grpc.StatusCode.OK}
            assert "node-1" in server.planner.sessions


async def test_a_herd_of_cold_nodes_is_served_to_the_last() -> None:
    async with plan_server(limits=limits(slots=1)) as server:
        server.put(*objects())
        async with herd(server, NAMES, acks=True) as clients:
            await eventually(lambda: server.is_converged(*NAMES), "every node has everything")
            assert served(clients) == set(NAMES)
            await asyncio.sleep(0)
            assert server.registry.value(SLOTS) == 0
