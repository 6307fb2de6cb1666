# SPDX-License-Identifier: Apache-2.0
"""Connections that are open and dead, and peers that are alive and frozen: both ends notice, and go on elsewhere."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_model.wire.plan import encode_service_plan
from pointsman_planner.core.status import NodeState
from support.cluster_objects import endpoint, endpoint_slice, node, service
from support.enforcer_node import Node
from support.enforcer_plans import key, numbered
from support.plan_server import PlanServer, eventually, plan_server
from support.scripted_planner import scripted_planner
from support.tcp_relay import tcp_relay

ONE = encode_service_plan(numbered(1))
SEED = (
    node("node-1", "192.168.0.2"),
    service("shop/web", "10.96.0.1", ports=["p:80"]),
    endpoint_slice("shop/web-x", "web", [endpoint("10.1.0.1", node="node-z")], ["p:8080"]),
)


async def test_an_enforcer_leaves_a_planner_it_no_longer_hears_for_one_it_hears(tmp_path: Path) -> None:
    async with scripted_planner() as first, scripted_planner() as second, tcp_relay(first.address) as wire:
        told = [pb.Candidate(planner_id="first", address=wire.address), second.candidate("second")]
        async with Node(tmp_path).enforcer(wire.address):
            stream = await first.stream()
            await stream.welcome(planner_id="first", candidates=told, heartbeat_seconds=0.4)
            await stream.send(1, {key(1): ONE})
            await stream.receive("ack")
            wire.freeze()
            hello = await (await second.stream()).welcome(planner_id="second", candidates=told)
            assert list(hello.unreachable_planners) == ["first"]


async def test_a_planner_that_takes_connections_and_says_nothing_is_left_after_seconds(tmp_path: Path) -> None:
    async with scripted_planner() as planner, tcp_relay(planner.address) as dead:
        dead.freeze()
        (tmp_path / "planners.json").write_text(
            f'{{"candidates": [{{"address": "{dead.address}", "id": "dead"}}, '
            f'{{"address": "{planner.address}", "id": "alive"}}]}}'
        )
        async with Node(tmp_path).enforcer():
            hello = await (await planner.stream()).welcome(planner_id="alive")
            assert list(hello.unreachable_planners) == ["dead"]


async def test_a_planner_notices_that_nothing_comes_from_a_node_and_says_so(tmp_path: Path) -> None:
    async with plan_server(heartbeat_seconds=0.3) as server, tcp_relay(server.address) as wire:
        server.put(*SEED)
        async with Node(tmp_path).enforcer(wire.address):
            await eventually(lambda: server.is_converged("node-1"), "first sync")
            wire.freeze()
            await eventually(lambda: "node-1" not in server.planner.sessions, "the stream is ended")
            assert "silent for three intervals" in await last_reason(server)
            wire.thaw()
            await eventually(lambda: server.is_converged("node-1"), "it is back")


async def test_a_frozen_enforcer_is_shown_as_such_and_comes_back(tmp_path: Path) -> None:
    async with plan_server(heartbeat_seconds=0.6) as server:
        server.put(*SEED)
        async with enforcer_process(tmp_path, server.address) as process:
            await eventually(lambda: server.is_converged("node-1"), "first sync")
            process.send_signal(signal.SIGSTOP)
            await is_unresponsive(server)
            await eventually(lambda: "node-1" not in server.planner.sessions, "the stream is ended")
            assert "silent for three intervals" in await last_reason(server)
            process.send_signal(signal.SIGCONT)
            await eventually(lambda: server.is_converged("node-1"), "it is back")


async def is_unresponsive(server: PlanServer) -> None:
    """While the stream is open the node shows as one that says nothing."""
    seen = []

    def shows() -> bool:
        session = server.planner.sessions.get("node-1")
        if session is not None:
            seen.append(server.plans.status(session))
        return any(each.state is NodeState.UNRESPONSIVE for each in seen)

    await eventually(shows, "the node shows as unresponsive")
    assert seen[-1].reason.startswith("silent: nothing was heard for")


async def last_reason(server: PlanServer) -> str:
    """Why the node is disconnected."""
    writing = asyncio.create_task(server.store.run())
    try:
        async with asyncio.timeout(10):
            while True:
                status = (await server.store.read(["node-1"])).get("node-1")
                if status is not None and status.state is NodeState.DISCONNECTED:
                    return status.reason
                await asyncio.sleep(0.01)
    finally:
        writing.cancel()


@asynccontextmanager
async def enforcer_process(directory: Path, address: str) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with (directory / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "support.enforcer_main",
            str(directory),
            address,
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.kill()
        await process.wait()
