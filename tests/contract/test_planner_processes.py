# SPDX-License-Identifier: Apache-2.0
"""Two planner processes on a Redis: they find each other, one drains at SIGTERM, and one that is killed is missed."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import yaml

from pointsman.cluster.v1 import cluster_service_pb2_grpc as cluster_grpc
from pointsman_chassis.errors import ConfigError
from pointsman_planner.settings import PlannerSettings
from pointsman_planner.shard import advertised_address
from support.cluster_objects import endpoint_slice, node, service
from support.plan_server import eventually
from support.redis_server import RedisServer, free_port, redis_server
from support.roaming_enforcer import RoamingEnforcer
from support.scripted_watcher import Watcher, delta, in_sync, opened

NODES = [f"node-{number}" for number in range(6)]
OBJECTS = (
    *(node(name, f"192.168.0.{number + 1}") for number, name in enumerate(NODES)),
    service("shop/web", "10.96.0.1", ports=["p:80"]),
    endpoint_slice("shop/web-x", "web", ["10.1.0.1"], ["p:80"]),
)


class Process:
    """A planner as an operator starts it."""

    def __init__(self, name: str, folder: Path, redis: RedisServer, watcher: Watcher) -> None:
        self.name = name
        self.port, self.metrics_port = free_port(), free_port()
        self._file = folder / f"{name}.yaml"
        self._file.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "config.pointsman.io/v1alpha1",
                    "kind": "PlannerConfiguration",
                    "plannerID": name,
                    "watcherAddresses": [f"127.0.0.1:{watcher.port}"],
                    "listenAddress": f"127.0.0.1:{self.port}",
                    "metricsBindAddress": f"127.0.0.1:{self.metrics_port}",
                    "redisURL": redis.url,
                    "sharding": {"lease": "1s", "nodesPerSecond": 5},
                    "drainPeriod": "10s",
                    "security": {"insecure": True},
                }
            )
        )
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "pointsman_planner", "--config", str(self._file), stderr=asyncio.subprocess.DEVNULL
        )

    async def ended(self) -> int:
        assert self.process is not None
        async with asyncio.timeout(20):
            return await self.process.wait()

    async def page(self, path: str) -> tuple[int, Mapping[str, Any]]:
        """Status and JSON; nothing when nobody listens."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.metrics_port)
        except OSError:
            return 0, {}
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        writer.close()
        return int(head.split()[1]), json.loads(body) if body.startswith("{") else {}

    async def members(self) -> list[str]:
        _, page = await self.page("/statusz")
        return [member["planner"] for member in page.get("membership", {}).get("members", ())]


@asynccontextmanager
async def two_planners(folder: Path) -> AsyncIterator[tuple[list[Process], list[RoamingEnforcer]]]:
    """Both know each other, and serve all nodes."""
    async with redis_server(folder) as redis, AsyncExitStack() as stack:
        script = [opened("e", 1, heartbeat_ms=60_000), delta(1, *OBJECTS), in_sync(1)]
        watcher, server = Watcher(script, script), grpc.aio.server()
        cluster_grpc.add_ClusterServiceServicer_to_server(watcher, server)
        watcher.port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        stack.push_async_callback(server.stop, 0)
        planners = [Process(name, folder, redis, watcher) for name in ("a", "b")]
        stack.push_async_callback(_end, planners)
        for planner in planners:
            await planner.start()
        async with asyncio.timeout(20):
            while [await planner.members() for planner in planners] != [["a", "b"]] * 2:
                await asyncio.sleep(0.05)
        nodes = [RoamingEnforcer(name, [f"127.0.0.1:{planner.port}" for planner in planners]) for name in NODES]
        tasks = [asyncio.create_task(each.run()) for each in nodes]
        stack.push_async_callback(_cancel, tasks)
        await eventually(lambda: all(each.planner for each in nodes), "every node is served")
        yield planners, nodes


async def _end(planners: list[Process]) -> None:
    for planner in planners:
        if planner.process is not None and planner.process.returncode is None:
            planner.process.kill()
            await planner.process.wait()


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_planner_that_is_terminated_gives_its_nodes_away_first(tmp_path: Path) -> None:
    async with two_planners(tmp_path) as ((leaving, staying), nodes):
        assert {each.planner for each in nodes} == {"a", "b"}
        assert leaving.process is not None
        leaving.process.terminate()
        answers = set()
        while leaving.process.returncode is None:
            answers.add((await leaving.page("/readyz"))[0])
            await asyncio.sleep(0.01)
        assert await leaving.ended() == 0
        assert 503 in answers
        assert {each.planner for each in nodes} == {"b"}
        assert [each.gaps for each in nodes] == [0] * len(nodes)
        async with asyncio.timeout(20):
            while await staying.members() != ["b"]:
                await asyncio.sleep(0.05)


async def test_a_planner_that_is_killed_is_missed_when_its_lease_ends(tmp_path: Path) -> None:
    async with two_planners(tmp_path) as ((killed, staying), nodes):
        untouched = [each for each in nodes if each.planner == "b"]
        assert killed.process is not None
        killed.process.kill()
        await eventually(lambda: {each.planner for each in nodes} == {"b"}, "the other one serves its nodes")
        assert all(len(each.moves) == 1 for each in untouched)
        async with asyncio.timeout(20):
            while await staying.members() != ["b"]:
                await asyncio.sleep(0.05)
        assert (await staying.page("/readyz"))[0] == 200
        assert (await staying.page("/statusz"))[1]["degraded"] == []


@pytest.mark.parametrize(
    ("settings", "pod_ip", "expected"),
    [
        ({"listen_address": "127.0.0.1:0"}, "", "127.0.0.1:41"),
        ({"listen_address": "0.0.0.0:7402"}, "10.0.0.7", "10.0.0.7:41"),
        ({"listen_address": "[::]:7402"}, "fd00::7", "[fd00::7]:41"),
        ({"listen_address": "[fd00::9]:7402"}, "fd00::7", "[fd00::9]:41"),
        ({"listen_address": "0.0.0.0:7402", "advertise_address": "planner.example:9"}, "10.0.0.7", "planner.example:9"),
        ({"listen_address": "0.0.0.0:7402"}, "", ""),
    ],
)
def test_where_a_planner_says_it_is(settings: dict[str, str], pod_ip: str, expected: str) -> None:
    assert advertised_address(PlannerSettings(**settings), port=41, pod_ip=pod_ip) == expected


def test_a_planner_that_cannot_say_where_it_is_does_not_share_nodes() -> None:
    with pytest.raises(ConfigError, match="advertiseAddress"):
        advertised_address(PlannerSettings(listen_address="0.0.0.0:1", redis_url="redis://r"), port=41, pod_ip="")
