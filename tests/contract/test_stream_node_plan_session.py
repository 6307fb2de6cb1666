# SPDX-License-Identifier: Apache-2.0
"""StreamNodePlan on a real loopback server: opening, transactions, acks, nacks, resync, reconnect."""

import asyncio

import grpc
import pytest

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_model.cluster import ObjectKey, ObjectKind
from pointsman_model.names import ServiceKey
from pointsman_model.wire.plan import encode_service_plan
from pointsman_planner.core.node_plan import plan
from support.cluster_objects import endpoint, endpoint_slice, node, service
from support.model_enforcer import ModelEnforcer
from support.plan_server import DEADLINE_SECONDS, PlanServer, enforcer_client, eventually, plan_server

NODE = node("node-a", "192.168.0.2", zone="a")


def web(number: int, *ips: str) -> tuple[object, ...]:
    name = f"svc-{number}"
    return (
        service(f"shop/{name}", f"10.96.{number // 250}.{number % 250 + 1}", ports=["p:80"]),
        endpoint_slice(f"shop/{name}-x", name, [endpoint(ip, node="node-z") for ip in ips], ["p:8080"]),
    )


def seed(server: PlanServer, count: int = 3) -> None:
    objects = [value for number in range(count) for value in web(number, "10.1.0.1", "10.1.0.2")]
    server.put(NODE, *objects)  # type: ignore[arg-type] # what the builders make


def wanted(server: PlanServer, name: str = "node-a") -> dict[ServiceKey, bytes]:
    return {key: encode_service_plan(value) for key, value in plan(name, server.planner.cluster).services.items()}


async def test_welcome_comes_first_and_nothing_else_before_the_planner_is_in_sync() -> None:
    async with plan_server(heartbeat_seconds=0.2) as server, enforcer_client(server, ModelEnforcer("node-a")) as client:
        await eventually(lambda: len(client.responses) >= 3, "welcome and two heartbeats")
        assert client.responses[0].welcome.planner_id == "planner-under-test"
        assert all(response.HasField("heartbeat") for response in client.responses[1:])
        assert not any(response.heartbeat.HasField("position") for response in client.responses[1:])
        seed(server)
        await eventually(lambda: server.is_converged("node-a"), "the first transaction is acknowledged")
        assert client.enforcer.plans == wanted(server)
        assert client.enforcer.in_sync
        assert client.enforcer.facts is not None
        assert client.enforcer.facts.addresses == [bytes((192, 168, 0, 2))]


async def test_a_change_brings_only_the_changed_service_with_its_trace() -> None:
    async with plan_server() as server, enforcer_client(server, ModelEnforcer("node-a")) as client:
        seed(server, 50)
        await eventually(lambda: server.is_converged("node-a"), "first sync")
        client.enforcer.keys_received.clear()
        trace = f"00-{'a' * 32}-{'b' * 16}-01"
        server.put(*web(7, "10.1.0.9"), traceparent=trace)  # type: ignore[arg-type] # what the builders make
        await eventually(lambda: server.is_converged("node-a"), "the change")
        assert client.enforcer.keys_received == [ServiceKey("shop", "svc-7")]
        assert client.enforcer.plans == wanted(server)
        assert client.enforcer.origins[-1].trace.traceparent == trace
        server.remove(ObjectKey(ObjectKind.SERVICE, "shop", "svc-7"))
        await eventually(lambda: server.is_converged("node-a"), "the removal")
        assert ServiceKey("shop", "svc-7") not in client.enforcer.plans


async def test_a_node_that_a_change_does_not_touch_gets_nothing_and_still_proves_the_position() -> None:
    async with plan_server() as server, enforcer_client(server, ModelEnforcer("node-a")) as client:
        seed(server)
        await eventually(lambda: server.is_converged("node-a"), "first sync")
        count = len(client.transactions)
        server.put(node("node-b", "192.168.0.3"))
        assert server.is_converged("node-a")
        status = server.plans.status(server.planner.sessions["node-a"])
        assert status.programmed.revision == server.revision
        assert len(client.transactions) == count


async def test_reconnect_with_digests_brings_only_what_differs() -> None:
    enforcer = ModelEnforcer("node-a")
    async with plan_server() as server:
        seed(server, 200)
        async with enforcer_client(server, enforcer):
            await eventually(lambda: server.is_converged("node-a"), "first sync")
        await eventually(lambda: not server.planner.sessions, "the stream is gone")
        server.put(*web(11, "10.1.0.77"))  # type: ignore[arg-type] # what the builders make
        server.remove(ObjectKey(ObjectKind.SERVICE, "shop", "svc-12"))
        enforcer.keys_received.clear()
        async with enforcer_client(server, enforcer):
            await eventually(lambda: server.is_converged("node-a"), "second sync")
            assert enforcer.plans == wanted(server)
            assert ServiceKey("shop", "svc-11") in enforcer.keys_received
            assert len(enforcer.keys_received) < 10
        await eventually(lambda: not server.planner.sessions, "the stream is gone")
        enforcer.keys_received.clear()
        async with enforcer_client(server, enforcer):
            await eventually(lambda: server.is_converged("node-a"), "third sync")
            assert enforcer.keys_received == []


async def test_a_second_planner_without_shared_history_sends_nothing_to_a_node_that_agrees() -> None:
    enforcer = ModelEnforcer("node-a")
    for attempt in range(2):
        async with plan_server() as server:
            seed(server, 50)
            async with enforcer_client(server, enforcer):
                await eventually(lambda server=server: server.is_converged("node-a"), "sync")  # type: ignore[misc] # bound now
                assert len(enforcer.keys_received) == 50, attempt


async def test_cold_start_is_split_into_parts_in_order_of_priority() -> None:
    async with plan_server() as server, enforcer_client(server, ModelEnforcer("node-a")) as client:
        big = [
            endpoint_slice(
                f"big/s{n}-x", f"s{n}", [f"10.{n}.{i // 250}.{i % 250 + 1}" for i in range(900)], ["p:80", "q:81"]
            )
            for n in range(100, 250)
        ]
        services = [service(f"big/s{n}", f"10.97.0.{n}", ports=["p:80", "q:81"]) for n in range(100, 250)]
        first = [
            service("default/kubernetes", "10.96.0.1", ports=["https:443"]),
            service("kube-system/kube-dns", "10.96.0.10", ports=["dns:53/UDP"]),
            service("kube-system/aaa", "10.96.0.11", ports=["p:80"]),
            service("aaa/aaa", "10.96.0.12", ports=["p:80"]),
        ]
        server.put(NODE, *big, *services, *first)
        await eventually(lambda: server.is_converged("node-a"), "first sync")
        parts = [response for response in client.responses if response.HasField("transaction")]
        assert len(parts) > 1
        assert len({part.transaction.nonce for part in parts}) == 1
        assert [str(key) for key in client.enforcer.keys_received[:4]] == [
            "default/kubernetes",
            "kube-system/kube-dns",
            "kube-system/aaa",
            "aaa/aaa",
        ]


async def test_changes_merge_while_two_transactions_are_unacknowledged() -> None:
    async with plan_server() as server, enforcer_client(server, ModelEnforcer("node-a"), acks=False) as client:
        seed(server, 3)
        await eventually(lambda: len(client.transactions) == 1, "first transaction")
        for round_ in range(100):
            server.put(*web(round_ % 3, f"10.1.1.{round_ + 1}"))  # type: ignore[arg-type] # what the builders make
        session = server.planner.sessions["node-a"]
        await eventually(lambda: len(client.transactions) == 2, "second transaction")
        assert (session.in_flight, session.pending_services <= 3) == (2, True)
        client.acks = True
        await client.send(client.enforcer.ack(2))
        await eventually(lambda: server.is_converged("node-a"), "everything")
        assert len(client.transactions) <= 4
        assert client.enforcer.plans == wanted(server)
        assert len(client.enforcer.origins) <= 64 * 3


async def test_a_reader_that_stalls_holds_up_nobody_and_converges_later() -> None:
    async with plan_server() as server, enforcer_client(server, ModelEnforcer("slow"), says_hello=False) as slow:
        await slow.send(slow.enforcer.hello())
        async with enforcer_client(server, ModelEnforcer("node-a")):
            seed(server, 2000)
            await eventually(lambda: server.is_converged("node-a"), "the other node")
            for round_ in range(50):
                server.put(*web(round_, f"10.1.2.{round_ + 1}"))  # type: ignore[arg-type] # what the builders make
            await eventually(lambda: server.is_converged("node-a"), "the other node, again")
            assert not server.is_converged("slow")
            assert server.planner.sessions["slow"].pending_services <= 50
            follow = asyncio.create_task(slow._follow())
            await eventually(lambda: server.is_converged("slow"), "the slow node")
            assert slow.enforcer.plans == wanted(server, "slow")
            follow.cancel()


async def test_nack_keeps_the_reason_until_the_plan_changes_and_the_rest_goes_on() -> None:
    key = ServiceKey("shop", "svc-1")
    async with plan_server() as server, enforcer_client(server, ModelEnforcer("node-a"), acks=False) as client:
        seed(server)
        await eventually(lambda: len(client.transactions) == 1, "first transaction")
        await client.send(client.enforcer.nack(1, key, "the kernel said no"))
        ack = client.enforcer.ack(1)
        ack.ack.programmed_digest = 1
        await client.send(ack)
        session = server.planner.sessions["node-a"]
        await eventually(lambda: bool(session.failures) and session.in_flight == 0, "nack and ack")
        assert (session.failures[0].service, session.failures[0].message) == (key, "the kernel said no")
        assert not session.is_converged
        assert len(client.transactions) == 1
        client.acks = True
        server.put(*web(1, "10.1.0.50"))  # type: ignore[arg-type] # what the builders make
        await eventually(lambda: server.is_converged("node-a"), "the new plan is accepted")
        assert session.failures == ()


async def test_resync_brings_back_what_the_node_lost() -> None:
    async with plan_server() as server, enforcer_client(server, ModelEnforcer("node-a")) as client:
        seed(server, 100)
        await eventually(lambda: server.is_converged("node-a"), "first sync")
        del client.enforcer.plans[ServiceKey("shop", "svc-5")]
        client.enforcer.keys_received.clear()
        await client.send(client.enforcer.resync())
        await eventually(lambda: client.enforcer.plans == wanted(server), "the lost service")
        assert len(client.enforcer.keys_received) < 10


async def test_heartbeat_with_a_wrong_digest_makes_the_node_say_what_differs() -> None:
    async with plan_server() as server, enforcer_client(server, ModelEnforcer("node-a")) as client:
        seed(server, 100)
        await eventually(lambda: server.is_converged("node-a"), "first sync")
        del client.enforcer.plans[ServiceKey("shop", "svc-5")]
        client.enforcer.keys_received.clear()
        await client.send(client.enforcer.heartbeat())
        await eventually(lambda: not client.enforcer.agrees, "a transaction that names nothing, with the digest")
        assert client.enforcer.keys_received == []
        await client.send(client.enforcer.resync())
        await eventually(lambda: client.enforcer.plans == wanted(server), "the lost service")
        assert len(client.enforcer.keys_received) < 10
        assert server.registry.value("pointsman_planner_digest_mismatches_total") >= 1


async def test_an_enforcer_that_never_asks_for_what_differs_is_sent_everything_once() -> None:
    async with plan_server() as server, enforcer_client(server, ModelEnforcer("node-a")) as client:
        seed(server)
        await eventually(lambda: server.is_converged("node-a"), "first sync")
        client.enforcer.plans.clear()
        # A heartbeat says nothing while a transaction is on its way, so it is repeated, as heartbeats are.
        async with asyncio.timeout(DEADLINE_SECONDS):
            while client.enforcer.plans != wanted(server):
                await client.send(client.enforcer.heartbeat())
                await asyncio.sleep(0.02)


async def test_a_message_of_a_kind_that_only_newer_enforcers_know_is_passed_over() -> None:
    async with plan_server() as server, enforcer_client(server, ModelEnforcer("node-a")) as client:
        seed(server)
        await eventually(lambda: server.is_converged("node-a"), "the first plan")
        await client.call.write(b"\xc2\x3e\x03abc")
        server.put(service("shop/late", "10.96.0.77", ports=["p:80"]))
        await eventually(lambda: ServiceKey("shop", "late") in client.enforcer.plans, "a change after it")


@pytest.mark.parametrize(
    ("first", "problem"),
    [
        (b"\xff\xff\xff", "not a StreamNodePlanRequest"),
        (b"", "no message is set"),
        (pb.StreamNodePlanRequest(ack=pb.Ack(level=pb.ACK_LEVEL_PROGRAMMED)).SerializeToString(), "must be hello"),
        (pb.StreamNodePlanRequest(hello=pb.Hello(node_name="node-a")).SerializeToString(), "1024"),
        (
            pb.StreamNodePlanRequest(hello=pb.Hello(node_name="../etc", bucket_digests=[0] * 1024)).SerializeToString(),
            "name of a Kubernetes node",
        ),
    ],
    ids=["garbage", "empty", "ack", "no-buckets", "hostile-name"],
)
async def test_a_wrong_first_message_is_an_invalid_argument(first: bytes, problem: str) -> None:
    async with plan_server() as server, enforcer_client(server, ModelEnforcer("x"), says_hello=False) as client:
        await client.call.write(first)
        code, details = await client.status()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert problem in details
        assert not server.planner.sessions


@pytest.mark.parametrize("kind", ["second hello", "future ack", "garbage"])
async def test_a_later_protocol_violation_closes_that_stream_only(kind: str) -> None:
    async with (
        plan_server() as server,
        enforcer_client(server, ModelEnforcer("node-a")) as bad,
        enforcer_client(server, ModelEnforcer("node-b")) as good,
    ):
        seed(server)
        await eventually(lambda: server.is_converged("node-a", "node-b"), "first sync")
        data = {
            "second hello": bad.enforcer.hello().SerializeToString(),
            "future ack": bad.enforcer.ack(99).SerializeToString(),
            "garbage": b"\xff\xff",
        }[kind]
        await bad.call.write(data)
        code, _ = await bad.status()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        server.put(*web(1, "10.1.0.50"))  # type: ignore[arg-type] # what the builders make
        await eventually(lambda: server.is_converged("node-b"), "the other node goes on")
        assert good.enforcer.plans == wanted(server, "node-b")


async def test_a_newer_stream_of_the_same_node_takes_over() -> None:
    async with plan_server() as server, enforcer_client(server, ModelEnforcer("node-a")) as old:
        seed(server)
        await eventually(lambda: server.is_converged("node-a"), "first sync")
        async with enforcer_client(server, ModelEnforcer("node-a")) as new:
            code, details = await old.status()
            assert (code, "newer stream" in details) == (grpc.StatusCode.ABORTED, True)
            await eventually(lambda: server.is_converged("node-a"), "the newer stream")
            assert new.enforcer.plans == wanted(server)


async def test_a_silent_enforcer_is_disconnected_and_remembered() -> None:
    async with plan_server(heartbeat_seconds=0.1) as server:
        async with enforcer_client(server, ModelEnforcer("node-a")) as client:
            seed(server)
            code, details = await client.status()
            assert (code, "silent" in details) == (grpc.StatusCode.UNAVAILABLE, True)
        await eventually(lambda: not server.planner.sessions, "the stream is gone")
        assert (await server.store.read(["node-a"]))["node-a"].programmed_digest == client.enforcer.digest


async def test_heartbeats_keep_a_stream_and_carry_the_position() -> None:
    async with plan_server(heartbeat_seconds=0.2) as server, enforcer_client(server, ModelEnforcer("node-a")) as client:
        seed(server)
        await eventually(lambda: server.is_converged("node-a"), "first sync")

        def beats() -> list[int]:
            return [r.heartbeat.position.revision for r in client.responses if r.heartbeat.HasField("position")]

        for count in range(1, 6):
            await client.send(client.enforcer.heartbeat())
            await eventually(lambda count=count: len(beats()) >= count, "a heartbeat")  # type: ignore[misc] # bound now
        assert set(beats()) == {server.revision}
        assert "node-a" in server.planner.sessions
