# SPDX-License-Identifier: Apache-2.0
"""Overrides through restarts of planners and of the store, between planners, and with hostile values among them."""

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from pointsman.control.v1 import override_service_pb2 as pb
from pointsman_planner.override_parts import OverrideOptions
from pointsman_planner.store.memory_store import MemoryStore
from support.cluster_objects import endpoint, endpoint_slice, node, service
from support.override_server import OverrideServer, drain_of, name_of, override_server, registration_of
from support.plan_server import eventually
from support.planner_stores import redis_store
from support.redis_server import redis_server

OBJECTS = (
    node("node-a", "192.168.0.2"),
    service("shop/web", "10.96.0.1", ports=["p:80"]),
    endpoint_slice("shop/web-x", "web", [endpoint("10.1.0.1"), endpoint("10.1.0.2")], ["p:8080"]),
)
BOTH = {"10.1.0.1": 1, "10.1.0.2": 1}
ONE = {"10.1.0.2": 1}
AREA = "{test}:area:overrides"
FORGET = OverrideOptions(is_restored=False)


async def apply(server: OverrideServer, override: pb.Override) -> pb.Override:
    found: pb.Override = (await server.stub.ApplyOverride(pb.ApplyOverrideRequest(override=override))).override
    return found


async def code_of(call: Any) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def shows(server: OverrideServer, endpoints: dict[str, int], what: str) -> None:
    await eventually(lambda: server.endpoints() == endpoints, what)


def ends(server: OverrideServer) -> list[int]:
    return [each.override.expires_ns for each in server.parts.feed.held.values()]


def hostile_values(server: OverrideServer) -> float:
    return server.store_registry.value("pointsman_planner_store_hostile_values_total", {"area": "overrides"}) or 0.0


async def test_planners_on_one_store_have_the_same_overrides(tmp_path: Path) -> None:
    async with (
        redis_server(tmp_path) as redis,
        override_server(redis_store(redis.url)) as one,
        override_server(redis_store(redis.url)) as two,
    ):
        one.put(*OBJECTS)
        two.put(*OBJECTS)
        made = await apply(one, drain_of("shop/d", "10.1.0.1", ttl_seconds=60))
        await shows(two, ONE, "the other planner drains too")
        assert one.planner.index.digest_once("node-a") == two.planner.index.digest_once("node-a")
        got = (await two.stub.GetOverride(pb.GetOverrideRequest(name=made.name))).override
        assert got == made
        renewed = (await two.stub.RenewOverride(pb.RenewOverrideRequest(name=made.name))).override
        await eventually(
            lambda: any(
                each.override.expires_ns == renewed.expire_time.ToNanoseconds() for each in one.parts.feed.held.values()
            ),
            "the renewal is known everywhere",
        )
        await two.stub.DeleteOverride(pb.DeleteOverrideRequest(name=made.name, etag=made.etag))
        await shows(one, BOTH, "it is gone everywhere")


async def test_of_two_planners_that_create_at_once_one_wins(tmp_path: Path) -> None:
    async with (
        redis_server(tmp_path) as redis,
        override_server(redis_store(redis.url)) as one,
        override_server(redis_store(redis.url)) as two,
    ):
        one.put(*OBJECTS)
        two.put(*OBJECTS)
        for number in range(20):
            results: list[Any] = await asyncio.gather(
                apply(one, drain_of(f"shop/d{number}", "10.1.0.1", owner="a")),
                apply(two, drain_of(f"shop/d{number}", "10.1.0.2", owner="b")),
                return_exceptions=True,
            )
            lost = [each for each in results if isinstance(each, grpc.aio.AioRpcError)]
            assert [each.code() for each in lost] == [grpc.StatusCode.ABORTED]
        await eventually(lambda: len(one.parts.feed.held) == len(two.parts.feed.held) == 20, "both know all")
        owners = [{key: each.override.owner for key, each in s.parts.feed.held.items()} for s in (one, two)]
        assert owners[0] == owners[1]


async def test_a_planner_that_starts_has_them_before_its_first_plan(tmp_path: Path) -> None:
    async with redis_server(tmp_path) as redis:
        async with override_server(redis_store(redis.url)) as first:
            first.put(*OBJECTS)
            await apply(first, drain_of("shop/d", "10.1.0.1"))
        async with override_server(redis_store(redis.url)) as second:
            second.put(*OBJECTS)
            assert second.endpoints() == ONE


async def test_an_emptied_store_is_given_them_back(tmp_path: Path) -> None:
    async with (
        redis_server(tmp_path) as redis,
        override_server(redis_store(redis.url)) as one,
        override_server(redis_store(redis.url)) as two,
    ):
        one.put(*OBJECTS)
        made = await apply(one, drain_of("shop/d", "10.1.0.1"))
        await apply(one, registration_of("shop/vm", "172.16.0.1", ttl_seconds=3600))
        with_vm = ONE | {"172.16.0.1": 1}
        two.put(*OBJECTS)
        await shows(two, with_vm, "both have them")
        watch = two.stub.WatchOverrides(pb.WatchOverridesRequest())
        assert [(await watch.read()).WhichOneof("message") for _ in range(3)] == ["applied", "applied", "synced"]
        await redis.ask("FLUSHALL")
        while len(await redis.ask("HKEYS", AREA)) < 4:
            assert (one.endpoints(), two.endpoints()) == (with_vm, with_vm)
            await asyncio.sleep(0.01)
        async with override_server(redis_store(redis.url)) as third:
            third.put(*OBJECTS)
            assert third.endpoints() == with_vm
        await one.stub.DeleteOverride(pb.DeleteOverrideRequest(name=made.name, etag=made.etag))
        await shows(two, BOTH | {"172.16.0.1": 1}, "changes work as before")
        while (message := await watch.read()).WhichOneof("message") != "removed":
            assert message.WhichOneof("message") == "applied"
        assert message.removed.reason == pb.RemovedOverride.REASON_DELETED
        watch.cancel()


async def test_what_an_emptied_store_lacks_for_a_moment_is_neither_absent_nor_free() -> None:
    store = MemoryStore()
    async with override_server(store, check_seconds=3600) as server:
        server.put(*OBJECTS)
        made = await apply(server, drain_of("shop/d", "10.1.0.1"))
        store.lose()
        delete = pb.DeleteOverrideRequest(name=made.name, etag=made.etag)
        create = pb.ApplyOverrideRequest(override=drain_of("shop/d", "10.1.0.2", owner="another"))
        for call in (server.stub.DeleteOverride(delete), server.stub.ApplyOverride(create)):
            assert await code_of(call) is grpc.StatusCode.UNAVAILABLE
        assert server.endpoints() == ONE


async def test_or_they_are_forgotten_as_configured(tmp_path: Path) -> None:
    async with redis_server(tmp_path) as redis, override_server(redis_store(redis.url), options=FORGET) as server:
        server.put(*OBJECTS)
        await apply(server, drain_of("shop/d", "10.1.0.1"))
        await redis.ask("FLUSHALL")
        await shows(server, BOTH, "nothing is drained any more")
        assert server.count("_ended_total", reason="lost") == 1
        await apply(server, drain_of("shop/d", "10.1.0.1"))
        assert server.endpoints() == ONE


async def test_a_store_that_is_away_changes_nothing_and_time_goes_on(tmp_path: Path) -> None:
    async with redis_server(tmp_path) as redis, override_server(redis_store(redis.url)) as server:
        server.put(*OBJECTS)
        stays = await apply(server, drain_of("shop/stays", "10.1.0.1"))
        await apply(server, registration_of("shop/vm", "172.16.0.1", ttl_seconds=2))
        redis.stop()
        assert server.endpoints() == ONE | {"172.16.0.1": 1}
        for call in (
            apply(server, drain_of("shop/new", "10.1.0.2")),
            server.stub.RenewOverride(pb.RenewOverrideRequest(name=name_of("shop/vm"))),
            server.stub.DeleteOverride(pb.DeleteOverrideRequest(name=stays.name, etag=stays.etag)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await call
            assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "those in force stay until they expire" in (failure.value.details() or "")
        listed = (await server.stub.ListOverrides(pb.ListOverridesRequest())).overrides
        assert [each.name.name for each in listed] == ["stays", "vm"]
        await shows(server, ONE, "the lease ends although nobody can be asked")
        assert server.count("_ended_total", reason="expired") == 1
        assert server.count("_refused_total", reason="unavailable") == 3
        await redis.start()

        request = pb.DeleteOverrideRequest(name=stays.name, etag=stays.etag)
        async with asyncio.timeout(20):
            while server.endpoints() != BOTH:
                await code_of(server.stub.DeleteOverride(request))
                await asyncio.sleep(0.05)


HOSTILE = {
    "/shop/text": "hello",
    "/shop/loopback": '{"namespace":"shop","name":"loopback","owner":"x","service":"web","ttl_ns":60000000000,'
    '"register":{"ports":[["p",6,8080]],"endpoints":[["fwAAAQ==","",[]]]}}',
    "/shop/other": '{"namespace":"shop","name":"else","owner":"x","service":"web","drain":{"endpoints":["","",0]}}',
    "/shop/renamed": '{"namespace":"shop","name":"d2","owner":"x","service":"web",'
    '"drain":{"endpoints":["CgEAAg==",0,"","",""]}}',
    "/shop/two-kinds": '{"namespace":"shop","name":"two-kinds","owner":"x","service":"web",'
    '"drain":{"endpoints":["CgEAAg==",0,"","",""]},"pin":{"endpoints":[["CgEAAg==",0,"","",""]]}}',
    "/shop/no-kind": '{"namespace":"shop","name":"no-kind","owner":"x","service":"web"}',
    "/shop/weight": '{"namespace":"shop","name":"weight","owner":"x","service":"web",'
    '"weight":{"rules":[[["CgEAAg==",0,"","",""],99999999999999999999]]}}',
    "/shop/time": '{"namespace":"shop","name":"time","owner":"x","service":"web","expires_ns":99999999999999999999,'
    '"drain":{"endpoints":["CgEAAg==",0,"","",""]}}',
    "/shop/deep": "[" * 100_000,
    "/shop/all": '{"namespace":"","name":"all","owner":"x","pin":{"endpoints":[["CgEAAg==",0,"","",""]]}}',
}


async def test_hostile_values_are_left_out_and_counted(tmp_path: Path) -> None:
    async with redis_server(tmp_path) as redis:
        async with override_server(redis_store(redis.url)) as server:
            server.put(*OBJECTS)
            await apply(server, drain_of("shop/d", "10.1.0.1"))
        for key, value in HOSTILE.items():
            await redis.ask("HSET", AREA, key, f"5 0 {value}")
        async with override_server(redis_store(redis.url)) as server:
            server.put(*OBJECTS)
            assert server.endpoints() == ONE
            assert {str(key) for key in server.parts.feed.held} == {"shop/d"}
            assert hostile_values(server) >= len(HOSTILE)
            await apply(server, drain_of("shop/text", "10.1.0.2"))
            assert server.endpoints() == BOTH, "everything is drained, so everything serves"


def options(path: Path) -> OverrideOptions:
    return OverrideOptions(state_file=str(path))


async def test_a_single_planner_keeps_them_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "overrides.json"
    async with override_server(MemoryStore(), options=options(path)) as first:
        first.put(*OBJECTS)
        made = await apply(first, drain_of("shop/d", "10.1.0.1"))
        lease = await apply(first, registration_of("shop/vm", "172.16.0.1", ttl_seconds=3600))
        await apply(first, drain_of("shop/short", "10.1.0.2", ttl_seconds=1))
        await eventually(lambda: path.exists() and "short" in path.read_text(), "it is on disk")
    text = path.read_text()
    for restart in range(2):
        async with override_server(MemoryStore(), options=options(path)) as again:
            again.put(*OBJECTS)
            await shows(again, ONE | {"172.16.0.1": 1}, f"they are in force after restart {restart}")
            held = {str(key): each.override for key, each in again.parts.feed.held.items()}
            assert (held["shop/d"].etag, held["shop/vm"].etag) == (made.etag, lease.etag)
            assert held["shop/vm"].expires_ns == lease.expire_time.ToNanoseconds()
            await again.stub.RenewOverride(pb.RenewOverrideRequest(name=made.name, etag=made.etag))
    assert json.loads(text)["overrides"]


async def test_a_planner_that_starts_without_its_store_has_what_is_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "overrides.json"
    async with redis_server(tmp_path) as redis:
        async with override_server(redis_store(redis.url), options=options(path)) as first:
            first.put(*OBJECTS)
            made = await apply(first, drain_of("shop/d", "10.1.0.1"))
            await eventually(path.exists, "it is on disk")
        redis.stop()
        async with override_server(redis_store(redis.url), options=options(path), loads=False) as second:
            second.put(*OBJECTS)
            assert second.endpoints() == ONE
            await redis.start()
            async with asyncio.timeout(20):
                while len(await redis.ask("HKEYS", AREA)) < 3:
                    await asyncio.sleep(0.02)
            assert second.endpoints() == ONE, "the store came back empty and was given it"
            await eventually(lambda: second.parts.records._replica.is_loaded, "it is followed again")
            await second.stub.DeleteOverride(pb.DeleteOverrideRequest(name=made.name, etag=made.etag))
            assert second.endpoints() == BOTH


async def test_what_was_deleted_meanwhile_does_not_come_back_from_disk(tmp_path: Path) -> None:
    path = tmp_path / "overrides.json"
    async with redis_server(tmp_path) as redis:
        async with override_server(redis_store(redis.url), options=options(path)) as first:
            first.put(*OBJECTS)
            made = await apply(first, drain_of("shop/d", "10.1.0.1"))
            await eventually(path.exists, "it is on disk")
        async with override_server(redis_store(redis.url)) as other:
            other.put(*OBJECTS)
            await other.stub.DeleteOverride(pb.DeleteOverrideRequest(name=made.name, etag=made.etag))
        async with override_server(redis_store(redis.url), options=options(path)) as again:
            again.put(*OBJECTS)
            assert again.endpoints() == BOTH


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b'{"epoch":1}', b"[" * 100_000], ids=["empty", "text", "type", "deep"]
)
async def test_a_file_that_cannot_be_read_is_set_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "overrides.json"
    path.write_bytes(content)
    async with override_server(MemoryStore(), options=options(path)) as server:
        server.put(*OBJECTS)
        await apply(server, drain_of("shop/d", "10.1.0.1"))
        await eventually(path.exists, "a new one is written")
    assert (tmp_path / "overrides.json.unreadable").read_bytes() == content


async def test_a_bad_override_on_disk_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "overrides.json"
    async with override_server(MemoryStore(), options=options(path)) as first:
        first.put(*OBJECTS)
        await apply(first, drain_of("shop/d", "10.1.0.1"))
        await eventually(path.exists, "it is on disk")
    document = json.loads(path.read_text())
    document["overrides"].append({"version": 1, "value": {"namespace": "shop", "name": "UPPER", "owner": "x"}})
    path.write_text(json.dumps(document))
    async with override_server(MemoryStore(), options=options(path)) as again:
        again.put(*OBJECTS)
        assert again.endpoints() == ONE
        assert len(again.parts.feed.held) == 1
