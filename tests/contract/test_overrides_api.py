# SPDX-License-Identifier: Apache-2.0
"""OverrideService on a real loopback server: what is refused, who may change what, pages, leases, streams of plans."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import grpc
import grpc.aio
import pytest

from pointsman.control.v1 import override_service_pb2 as pb
from pointsman_model.names import ServiceKey, parse_address
from pointsman_planner.api.paging import BYTES_MAX
from pointsman_planner.core.override_rules import PINNED_MAX
from pointsman_planner.feed.override_feed import WATCHES_MAX
from pointsman_planner.store.memory_store import MemoryStore
from support.cluster_objects import endpoint, endpoint_slice, node, service, service_cidr
from support.model_enforcer import ModelEnforcer
from support.override_server import (
    OverrideServer,
    drain_of,
    name_of,
    override_server,
    registration_of,
    weight_of,
    wish,
)
from support.plan_server import enforcer_client, eventually

TRACE = f"00-{'a' * 32}-{'b' * 16}-01"
OBJECTS = (
    node("node-a", "192.168.0.2"),
    service_cidr("kubernetes", "10.96.0.0/16"),
    service("shop/web", "10.96.0.1", ports=["p:80"]),
    endpoint_slice(
        "shop/web-x", "web", [endpoint("10.1.0.1", node="node-a"), endpoint("10.1.0.2", node="node-b")], ["p:8080"]
    ),
    service("shop/api", "10.96.0.2", ports=["p:80"]),
)
BOTH = {"10.1.0.1": 1, "10.1.0.2": 1}


async def refused(call: Awaitable[object], code: grpc.StatusCode, *words: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call
    assert failure.value.code() is code
    details = failure.value.details() or ""
    assert all(word in details for word in words), details


async def apply(server: OverrideServer, override: pb.Override, **words: Any) -> pb.ApplyOverrideResponse:
    response: pb.ApplyOverrideResponse = await server.stub.ApplyOverride(
        pb.ApplyOverrideRequest(override=override, **words)
    )
    return response


async def test_everything_fails_before_the_planner_is_in_sync() -> None:
    async with override_server() as server:
        calls = (
            server.stub.ApplyOverride(pb.ApplyOverrideRequest(override=drain_of("shop/d", "10.1.0.1"))),
            server.stub.RenewOverride(pb.RenewOverrideRequest(name=name_of("shop/d"))),
            server.stub.DeleteOverride(pb.DeleteOverrideRequest(name=name_of("shop/d"))),
            server.stub.GetOverride(pb.GetOverrideRequest(name=name_of("shop/d"))),
            server.stub.ListOverrides(pb.ListOverridesRequest()),
            server.stub.WatchOverrides(pb.WatchOverridesRequest()).read(),
        )
        for call in calls:
            await refused(call, grpc.StatusCode.FAILED_PRECONDITION, "try again")


async def test_an_override_is_in_force_when_the_call_returns_and_gone_when_deleted() -> None:
    async with override_server() as server:
        server.put(*OBJECTS)
        created = (await apply(server, drain_of("shop/d", "10.1.0.1"))).override
        assert server.endpoints() == {"10.1.0.2": 1}
        assert (created.owner, len(created.etag), created.HasField("expire_time")) == ("tests", 16, False)
        assert created.create_time.seconds > 1_600_000_000
        got = await server.stub.GetOverride(pb.GetOverrideRequest(name=created.name))
        assert (got.override, list(got.warnings)) == (created, [])
        await server.stub.DeleteOverride(pb.DeleteOverrideRequest(name=created.name, etag=created.etag))
        assert server.endpoints() == BOTH
        await refused(
            server.stub.GetOverride(pb.GetOverrideRequest(name=created.name)), grpc.StatusCode.NOT_FOUND, "shop/d"
        )
        assert [server.count("", kind="drain"), server.count("_ended_total", reason="deleted")] == [0, 1]


async def test_what_breaks_a_rule_is_refused_with_every_problem() -> None:
    async with override_server() as server:
        server.put(*OBJECTS)
        bad = drain_of("shop/BAD", "10.1.0.1", owner="", ttl_seconds=0.5)
        await refused(apply(server, bad), grpc.StatusCode.INVALID_ARGUMENT, "name.name", "owner", "spec.ttl")
        await refused(apply(server, wish("shop/x")), grpc.StatusCode.INVALID_ARGUMENT, "one of drain")
        for address in ("10.96.0.1", "10.96.7.7", "127.0.0.1"):
            await refused(
                apply(server, registration_of("shop/vm", address)),
                grpc.StatusCode.INVALID_ARGUMENT,
                "register.endpoints[0].address",
            )
        protocol = registration_of("shop/vm", "172.16.0.1")
        protocol.spec.register.ports[0].protocol = 1  # type: ignore[assignment]  # a number that is none
        await refused(apply(server, protocol), grpc.StatusCode.INVALID_ARGUMENT, "register.ports[0].protocol")
        await refused(server.stub.GetOverride(pb.GetOverrideRequest()), grpc.StatusCode.INVALID_ARGUMENT, "name.name")
        assert server.count("_refused_total", reason="invalid") == 4
        assert (await server.stub.ListOverrides(pb.ListOverridesRequest())).overrides == []


async def test_nobody_overwrites_what_he_has_not_read() -> None:
    async with override_server() as server:
        server.put(*OBJECTS)
        first = (await apply(server, drain_of("shop/d", "10.1.0.1"))).override
        other = drain_of("shop/d", "10.1.0.2", owner="another")
        await refused(apply(server, other), grpc.StatusCode.ABORTED, "of tests", first.etag)
        other.etag = "0123456789abcdef"
        await refused(apply(server, other), grpc.StatusCode.ABORTED, first.etag)
        other.etag = first.etag
        second = (await apply(server, other)).override
        assert (second.etag != first.etag, second.create_time) == (True, first.create_time)
        assert server.endpoints() == {"10.1.0.1": 1}
        stale = pb.DeleteOverrideRequest(name=first.name, etag=first.etag)
        await refused(server.stub.DeleteOverride(stale), grpc.StatusCode.ABORTED, second.etag)
        await refused(
            server.stub.RenewOverride(pb.RenewOverrideRequest(name=first.name, etag=first.etag)),
            grpc.StatusCode.ABORTED,
        )
        await server.stub.DeleteOverride(pb.DeleteOverrideRequest(name=first.name, etag=second.etag))
        gone = drain_of("shop/d", "10.1.0.1", etag=second.etag)
        await refused(apply(server, gone), grpc.StatusCode.ABORTED, "send no etag")
        assert server.count("_refused_total", reason="conflict") == 5


async def test_a_call_that_succeeded_may_be_repeated() -> None:
    async with override_server() as server:
        server.put(*OBJECTS)
        first = (await apply(server, drain_of("shop/d", "10.1.0.1", ttl_seconds=60))).override
        again = (await apply(server, drain_of("shop/d", "10.1.0.1", ttl_seconds=60))).override
        assert again.etag == first.etag
        assert again.expire_time.ToNanoseconds() > first.expire_time.ToNanoseconds()


async def test_validating_changes_nothing() -> None:
    async with override_server() as server:
        server.put(*OBJECTS)
        checked = await apply(server, drain_of("shop/d", "10.1.0.9"), validate_only=True)
        assert checked.override.etag
        assert "10.1.0.9" in checked.warnings[0]
        assert server.endpoints() == BOTH
        await refused(
            apply(server, drain_of("shop/d", "10.1.0.1", owner=""), validate_only=True),
            grpc.StatusCode.INVALID_ARGUMENT,
        )
        made = (await apply(server, drain_of("shop/d", "10.1.0.1"))).override
        assert made.etag != checked.override.etag
        await server.stub.DeleteOverride(pb.DeleteOverrideRequest(name=made.name, etag=made.etag, validate_only=True))
        assert server.endpoints() == {"10.1.0.2": 1}


async def test_of_many_that_create_at_once_one_wins() -> None:
    async with override_server() as server:
        server.put(*OBJECTS)
        wishes = [drain_of("shop/d", "10.1.0.1", owner=f"owner-{number}") for number in range(10)]
        results = await asyncio.gather(*(apply(server, each) for each in wishes), return_exceptions=True)
        won = [each for each in results if isinstance(each, pb.ApplyOverrideResponse)]
        codes = {each.code() for each in results if isinstance(each, grpc.aio.AioRpcError)}
        assert (len(won), codes) == (1, {grpc.StatusCode.ABORTED})


async def test_overrides_expire_and_are_renewed() -> None:
    async with override_server() as server:
        server.put(*OBJECTS)
        lease = (await apply(server, registration_of("shop/vm", "172.16.0.5", ttl_seconds=1.5))).override
        await apply(server, drain_of("shop/d", "10.1.0.1", ttl_seconds=1))
        assert server.endpoints() == {"10.1.0.2": 1, "172.16.0.5": 1}
        renewals = 0
        while server.endpoints() != BOTH | {"172.16.0.5": 1}:
            renewed = await server.stub.RenewOverride(pb.RenewOverrideRequest(name=lease.name, etag=lease.etag))
            assert renewed.override.etag == lease.etag
            renewals += 1
            await asyncio.sleep(0.1)
        assert renewals > 3
        await eventually(lambda: server.endpoints() == BOTH, "the lease is over")
        await refused(
            server.stub.RenewOverride(pb.RenewOverrideRequest(name=lease.name)), grpc.StatusCode.NOT_FOUND, "expired"
        )
        assert server.count("_ended_total", reason="expired") == 2


async def test_lists_are_filtered_and_paged() -> None:
    async with override_server() as server:
        server.put(*OBJECTS)
        for number in range(5):
            await apply(server, drain_of(f"shop/d{number}", "10.1.0.1", owner=f"owner-{number % 2}"))
        await apply(server, drain_of("shop/api-d", "10.1.0.1", service="api"))
        of_node = wish("maintenance", service="")
        of_node.spec.drain.endpoints.node_name = "node-b"
        await apply(server, of_node)

        async def listed(**words: Any) -> list[str]:
            found = await server.stub.ListOverrides(pb.ListOverridesRequest(**words))
            return [each.name.name for each in found.overrides]

        everything = ["maintenance", "api-d", "d0", "d1", "d2", "d3", "d4"]
        assert await listed() == everything
        assert await listed(service=name_of("shop/api")) == ["api-d"]
        assert await listed(service=name_of("shop/")) == everything[1:]
        assert await listed(owner="owner-1") == ["d1", "d3"]
        assert await listed(owner="owner-1", service=name_of("shop/api")) == []
        found, token = [], ""
        for _ in range(3):
            page = await server.stub.ListOverrides(pb.ListOverridesRequest(page_size=3, page_token=token))
            found += [each.name.name for each in page.overrides]
            token = page.next_page_token
        assert (found, token) == (everything, "")


async def test_a_page_of_large_overrides_is_one_that_any_client_takes() -> None:
    async with override_server() as server:
        server.put(*OBJECTS)
        names = [f"pin-{number:02}" for number in range(40)]
        for name in names:
            pin = wish(f"shop/{name}")
            for number in range(PINNED_MAX):
                pin.spec.pin.endpoints.add(target_name=f"{number:03}{'a' * 250}", target_name_prefix="b" * 253)
            await apply(server, pin)
        found, sizes, token = [], [], ""
        while token or not found:
            page = await server.stub.ListOverrides(pb.ListOverridesRequest(page_token=token))
            found += [each.name.name for each in page.overrides]
            sizes.append(page.ByteSize())
            token = page.next_page_token
        assert found == names
        assert len(sizes) > 1
        assert max(sizes) < 1.1 * BYTES_MAX


async def test_watchers_see_what_is_there_and_every_change_after() -> None:
    async with override_server() as server:
        server.put(*OBJECTS)
        await apply(server, drain_of("shop/a", "10.1.0.1"))
        await apply(server, drain_of("shop/b", "10.1.0.1", owner="another"))
        stream = server.stub.WatchOverrides(pb.WatchOverridesRequest(owner="tests"))
        assert (await stream.read()).applied.name.name == "a"
        assert (await stream.read()).WhichOneof("message") == "synced"
        created = (await apply(server, drain_of("shop/c", "10.1.0.2", ttl_seconds=1))).override
        assert (await stream.read()).applied == created
        renewed = await server.stub.RenewOverride(pb.RenewOverrideRequest(name=created.name))
        assert (await stream.read()).applied == renewed.override
        message = await stream.read()
        assert (message.removed.override.name.name, message.removed.reason) == ("c", pb.RemovedOverride.REASON_EXPIRED)
        stream.cancel()


async def test_watches_are_bounded_and_one_that_ends_makes_room() -> None:
    async with override_server() as server:
        server.put(*OBJECTS)
        streams = [server.stub.WatchOverrides(pb.WatchOverridesRequest()) for _ in range(WATCHES_MAX)]
        for stream in streams:
            assert (await stream.read()).WhichOneof("message") == "synced"
        one_more = server.stub.WatchOverrides(pb.WatchOverridesRequest()).read()
        await refused(one_more, grpc.StatusCode.RESOURCE_EXHAUSTED, str(WATCHES_MAX))
        streams.pop().cancel()

        async def is_served() -> bool:
            stream = server.stub.WatchOverrides(pb.WatchOverridesRequest())
            try:
                return bool((await stream.read()).WhichOneof("message"))
            except grpc.aio.AioRpcError:
                return False

        async with asyncio.timeout(10):
            while not await is_served():
                await asyncio.sleep(0.01)
        for stream in streams:
            stream.cancel()


async def test_a_change_reaches_the_nodes_it_concerns_with_its_trace_and_no_others() -> None:
    async with override_server() as server:
        server.put(*OBJECTS)
        enforcer = ModelEnforcer("node-a")
        async with enforcer_client(server, enforcer) as client:
            await eventually(lambda: server.is_converged("node-a"), "the first plan")
            sent = len(client.transactions)
            enforcer.origins.clear()
            request = pb.ApplyOverrideRequest(override=weight_of("shop/w", ("10.1.0.1", 3)))
            await server.stub.ApplyOverride(request, metadata=(("traceparent", TRACE),))
            await eventually(lambda: len(client.transactions) == sent + 1, "one transaction")
            await eventually(lambda: server.is_converged("node-a"), "the weights")
            assert [origin.trace.traceparent for origin in enforcer.origins] == [TRACE]
            assert server.endpoints() == {"10.1.0.1": 3, "10.1.0.2": 1}
            await apply(server, drain_of("shop/idle", "10.1.0.9", service="absent"))
            await apply(server, drain_of("shop/other", "10.9.9.9"))
            assert len(client.transactions) == sent + 1
            assert enforcer.keys_received.count(ServiceKey("shop", "web")) == 2


async def test_a_registration_waits_for_its_service() -> None:
    async with override_server() as server:
        server.put(*OBJECTS)
        waiting = await apply(server, registration_of("shop/vm", "172.16.0.5", service="later"))
        assert "waits for it" in waiting.warnings[0]
        server.put(service("shop/later", "10.96.0.3", ports=["p:80"]))
        assert server.endpoints("shop/later") == {"172.16.0.5": 1}


async def test_a_selector_keeps_every_field_on_the_way() -> None:
    async with override_server(MemoryStore()) as server:
        server.put(*OBJECTS)
        message = wish("shop/p", ttl_seconds=3600)
        message.spec.reason = "because"
        message.spec.pin.endpoints.add(address=parse_address("10.1.0.1"), port=8080, node_name="node-a")
        message.spec.pin.endpoints.add(target_name="a", target_name_prefix="b")
        made = (await apply(server, message)).override
        assert made.spec == message.spec
        vm = registration_of("shop/vm", "172.16.0.5")
        vm.spec.register.endpoints[0].node_name = "node-a"
        vm.spec.register.endpoints[0].zone_hints.append("a")
        assert (await apply(server, vm)).override.spec == vm.spec
        weights = weight_of("shop/w", ("10.1.0.1", 0), ("10.1.0.2", 1000))
        assert (await apply(server, weights)).override.spec == weights.spec
