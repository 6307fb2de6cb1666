# SPDX-License-Identifier: Apache-2.0
"""Redis frozen, full, read-only, full of somebody else's values: endpoint changes go on, it shows, and it heals."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pointsman_chassis.duration import Duration
from pointsman_chassis.metrics import Registry
from pointsman_model.cluster import ClusterObject
from pointsman_planner.health_page import health_page
from pointsman_planner.store.connection import RedisSettings
from pointsman_planner.store.node_status_store import NODES as STATUSES
from pointsman_planner.store.port import Store, StoreUnavailableError, Write, list_area
from support.cluster_objects import endpoint_slice, node, service
from support.plan_server import eventually
from support.planner_fleet import Fleet, FleetPlanner, fleet
from support.planner_stores import redis_store
from support.redis_server import RedisServer, redis_server
from support.tcp_relay import tcp_relay

NODES = ("node-a", "node-b", "node-c")


class Lone:
    """One planner on a Redis, and its nodes."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.url = server.url
        self.registry = Registry(process=False)
        self.fleet: Fleet
        self._addresses = (f"10.1.1.{number}" for number in count(1))

    def make_store(self) -> Store:
        settings = RedisSettings(command_timeout=Duration(0.5))
        return redis_store(self.url, self.registry, settings=settings)

    @property
    def planner(self) -> FleetPlanner:
        return self.fleet.planners["a"]

    @property
    def page(self) -> dict[str, Any]:
        planner = self.planner
        page = health_page(
            planner_id="a",
            planner=planner.served.planner,
            shard=planner.shard,
            store=planner.store,
            affinity=planner.affinity.records,
        )
        return dict(msgspec.json.decode(page.body))

    @property
    def is_available(self) -> bool:
        return self.registry.value("pointsman_planner_store_available") == 1

    def hostile(self, area: str) -> float:
        registries = (self.registry, self.planner.registry, self.planner.served.registry)
        name, labels = "pointsman_planner_store_hostile_values_total", {"area": area}
        return sum(registry.value(name, labels) or 0.0 for registry in registries)

    async def changes_go_on(self) -> None:
        """Ten changes, each acknowledged by every node before the next one."""
        for _ in range(10):
            self.fleet.put(*shop(next(self._addresses)))
            await eventually(self.fleet.is_settled, "a change is programmed by every node")

    async def is_whole(self) -> None:
        """Everything that planners share is in the store."""
        await eventually(lambda: self.is_available and self.page["degraded"] == [], "nothing is degraded")
        await eventually(lambda: not self.planner.served.store.waiting, "the status of every node is written")
        listed = await list_area(self.planner.store, STATUSES)
        assert set(listed.records) == set(NODES)
        assert [member["planner"] for member in self.page["membership"]["members"]] == ["a"]


def shop(address: str) -> list[ClusterObject]:
    return [service("shop/web", "10.96.0.1", ports=["p:80"]), endpoint_slice("shop/x", "web", [address], ["p:80"])]


@asynccontextmanager
async def lone(server: RedisServer, *, url: str = "") -> AsyncIterator[Lone]:
    made = Lone(server)
    made.url = url or made.url
    nodes = [node(name, f"192.168.0.{index}") for index, name in enumerate(NODES, start=1)]
    async with fleet(made.make_store, [*nodes, *shop("10.1.0.1")], "a") as made.fleet:
        made.fleet.connect(NODES)
        await eventually(made.fleet.is_settled, "every node is served")
        await made.is_whole()
        yield made


async def _freeze(server: RedisServer) -> None:
    server.freeze()


async def _thaw(server: RedisServer) -> None:
    server.thaw()


async def _kill(server: RedisServer) -> None:
    server.stop()


async def _start(server: RedisServer) -> None:
    await server.start()


async def _fill(server: RedisServer) -> None:
    await server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "1")


async def _empty(server: RedisServer) -> None:
    await server.ask("CONFIG", "SET", "maxmemory", "0")


async def _follow_nobody(server: RedisServer) -> None:
    await server.ask("REPLICAOF", "127.0.0.1", "1")


async def _follow_no_more(server: RedisServer) -> None:
    await server.ask("REPLICAOF", "NO", "ONE")


Act = Callable[[RedisServer], Awaitable[None]]


@pytest.mark.parametrize(
    ("harm", "heal", "why"),
    [
        (_freeze, _thaw, "no answer in time"),
        (_kill, _start, "onnect"),
        (_fill, _empty, "maxmemory"),
        (_follow_nobody, _follow_no_more, "read only"),
    ],
    ids=["frozen", "gone and back empty", "full", "read-only"],
)
async def test_changes_go_on_and_what_is_degraded_shows_and_heals(
    tmp_path: Path, harm: Act, heal: Act, why: str
) -> None:
    async with redis_server(tmp_path) as server, lone(server) as made:
        await harm(server)
        await made.changes_go_on()
        await eventually(lambda: not made.is_available, "the metric says so")
        page = made.page
        assert why in page["store"]["error"]
        assert any("shared state" in text for text in page["degraded"])
        await eventually(lambda: made.page["membership"]["isFrozen"], "membership is frozen")
        await made.changes_go_on()
        await heal(server)
        await made.is_whole()
        await made.changes_go_on()


async def test_changes_go_on_beside_a_slow_redis_and_that_is_no_reason_to_be_degraded(tmp_path: Path) -> None:
    async with (
        redis_server(tmp_path) as server,
        tcp_relay(f"127.0.0.1:{server.port}") as relay,
        lone(server, url=f"redis://{relay.address}/0") as made,
    ):
        relay.delay_seconds = 0.05  # a hundred times what it takes without, and well within the lease of this fleet
        await made.planner.store.commit(STATUSES, [Write(key="slow", value=b"{}")])
        await made.changes_go_on()
        await eventually(lambda: not made.planner.served.store.waiting, "the status of every node is written")
        await eventually(lambda: made.is_available and made.page["degraded"] == [], "nothing is degraded")


async def test_a_full_redis_is_still_read(tmp_path: Path) -> None:
    async with redis_server(tmp_path) as server, lone(server) as made:
        await _fill(server)
        await eventually(lambda: not made.is_available, "the metric says so")
        with pytest.raises(StoreUnavailableError, match="maxmemory"):
            await made.planner.store.commit(STATUSES, [Write(key="x", value=b"")])
        assert set((await list_area(made.planner.store, STATUSES)).records) == set(NODES)


async def test_what_somebody_else_wrote_is_left_out_counted_and_written_over(tmp_path: Path) -> None:
    member = msgspec.json.encode({"planner_id": "evil", "address": "evil.example; rm -rf /:1", "instance_id": ""})
    other = msgspec.json.encode({"planner_id": "other", "address": "10.0.0.9:1"})
    async with redis_server(tmp_path) as server, lone(server) as made:
        area = "{test}:area:planners"
        await server.ask("HSET", area, "/evil", b"1 0 " + member, "/named", b"1 0 " + other, "/junk", b"\xff\x00")
        await server.ask("HSET", area, b"/\xff\xfe", b"1 0 {}", "/huge", b"9" * 400 + b" 0 {}", "unheard of", "x")
        await server.ask("HSET", "{test}:area:nodes", "/node-a", "1 0 [1, 2", "/node-x", b"1 0 " + b"[" * 50_000)
        await server.ask("HSET", area, "/large", b"1 0 " + b" " * 10_000_000 + b"{}")
        await server.ask("XADD", "{test}:log", "*", "area", "x", "version", "many", "keys", "{}")
        await made.changes_go_on()
        await eventually(lambda: made.hostile("planners") >= 6 and made.hostile("log") >= 1, "they are counted")
        assert await made.planner.served.store.read(["node-x"]) == {}
        await eventually(lambda: made.hostile("nodes") >= 1, "this one too")
        assert [each["planner"] for each in made.page["membership"]["members"]] == ["a"]
        await eventually(lambda: made.is_available, "it is no reason to be degraded")


@pytest.mark.parametrize("key", ["area:planners", "ends:planners", "area:nodes", "ends:nodes", "log", "probe"])
async def test_a_key_that_became_something_else_is_made_anew(tmp_path: Path, key: str) -> None:
    async with redis_server(tmp_path) as server, lone(server) as made:
        await server.ask("DEL", f"{{test}}:{key}")
        await server.ask("RPUSH", f"{{test}}:{key}", "a", "list")
        await made.changes_go_on()

        def is_ours() -> bool:
            return made.is_available and made.fleet.is_settled() and not made.planner.served.store.waiting

        await eventually(is_ours, "it is ours again")
        await made.is_whole()
        assert await server.ask("TYPE", f"{{test}}:{key}") != b"list"


@pytest.mark.parametrize(
    "head", [("DEL",), ("HSET", ":version", "many"), ("HDEL", ":epoch"), ("HSET", ":version", "-1")]
)
async def test_an_area_whose_head_makes_no_sense_is_rebuilt(tmp_path: Path, head: tuple[str, ...]) -> None:
    async with redis_server(tmp_path) as server, lone(server) as made:
        command, *rest = head
        await server.ask(command, "{test}:area:planners", *rest)
        await made.changes_go_on()
        await eventually(
            lambda: bool(made.planner.registry.value("pointsman_planner_store_rebuilds_total", {"area": "planners"})),
            "it is rebuilt",
        )
        await made.is_whole()
