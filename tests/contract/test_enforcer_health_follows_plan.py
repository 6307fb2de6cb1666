# SPDX-License-Identifier: Apache-2.0
"""From a planner's stream to what load balancers and kubelets hear: the whole enforcer, on a kernel in memory."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pointsman_chassis.lifecycle import Stop
from pointsman_chassis.tls import TransportSecurity
from pointsman_enforcer.app import Enforcer
from pointsman_enforcer.core.transaction import ChangeOrigin
from pointsman_enforcer.dataplane.nftables.backend import NftablesDataplane
from pointsman_enforcer.settings import EnforcerConfiguration
from pointsman_model.plan import HealthCheck, ServicePlan
from pointsman_model.wire.plan import encode_service_plan
from support.enforcer_plans import FACTS, key, numbered
from support.fake_nftables import FakeNftables
from support.scripted_planner import ScriptedStream, scripted_planner

DEADLINE_SECONDS = 20.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


async def get(port: int, path: str) -> tuple[int, str]:
    """Status and body; (0, "") when nobody listens, or just now stopped to."""

    def ask() -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_SECONDS)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except ConnectionError:
            return 0, ""
        finally:
            connection.close()

    return await asyncio.to_thread(ask)


async def until_status(port: int, path: str, wanted: int) -> str:
    """The body, once the status is as wanted."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            status, body = await get(port, path)
            if status == wanted:
                return body
            await asyncio.sleep(0.01)


class Node:
    """An enforcer with its pages on free ports, and its stream."""

    def __init__(self, stream: ScriptedStream, healthz: int, metrics: int) -> None:
        self.stream, self.healthz, self.metrics = stream, healthz, metrics

    async def metric(self, line_start: str) -> float:
        _, body = await get(self.metrics, "/metrics")
        return next((float(line.split()[-1]) for line in body.splitlines() if line.startswith(line_start)), 0.0)


@asynccontextmanager
async def followed(directory: Path, node_ports: tuple[str, ...] = ("127.0.0.1/32",)) -> AsyncIterator[Node]:
    async with scripted_planner() as planner:
        healthz, metrics = free_port(), free_port()
        config = EnforcerConfiguration(
            planner_addresses=(planner.address,),
            state_directory=str(directory),
            cluster_cidr="10.0.0.0/8",
            node_port_addresses=node_ports,
            healthz_bind_address=f"127.0.0.1:{healthz}",
            metrics_bind_address=f"127.0.0.1:{metrics}",
            security=TransportSecurity(insecure=True),
        )
        dataplane = NftablesDataplane(node_settings=config.node_settings(), kernel=FakeNftables())
        stop = Stop()
        task = asyncio.create_task(Enforcer(config, "node-1", dataplane=dataplane).run(stop))
        try:
            stream = await planner.stream()
            await stream.welcome()
            yield Node(stream, healthz, metrics)
        finally:
            stop.set("the test is over")
            assert await task == 0


def checked(port: int, count: int) -> bytes:
    plan = replace(numbered(1), health_check=HealthCheck(node_port=port, local_endpoints=count))
    return encode_service_plan(plan)


async def test_row_146_eligibility_comes_with_the_facts(tmp_path: Path) -> None:
    async with followed(tmp_path) as node:
        assert (await get(node.healthz, "/healthz"))[0] == 503, "nothing is known of the node"
        await node.stream.send(1, {})
        await until_status(node.healthz, "/healthz", 200)
        await node.stream.send(2, {}, facts=replace(FACTS, eligible=False))
        body: dict[str, Any] = json.loads(await until_status(node.healthz, "/healthz", 503))
        assert (body["nodeEligible"], body["healthy"]) == (False, True)
        assert (await get(node.healthz, "/livez"))[0] == 200
        await node.stream.send(3, {}, facts=FACTS)
        await until_status(node.healthz, "/healthz", 200)


async def test_rows_140_141_health_checks_follow_the_plan(tmp_path: Path) -> None:
    first, second = free_port(), free_port()
    async with followed(tmp_path) as node:
        await node.stream.send(1, {key(1): checked(first, 0)})
        await until_status(first, "/", 503)
        await node.stream.send(2, {key(1): checked(first, 2)})
        assert json.loads(await until_status(first, "/", 200))["localEndpoints"] == 2
        await node.stream.send(3, {key(1): checked(second, 2)})
        await until_status(second, "/", 200)
        await until_status(first, "/", 0)
        await node.stream.send(4, {}, removals=(key(1),))
        await until_status(second, "/", 0)


async def test_a_service_that_cannot_be_programmed_keeps_answering_what_was_true(tmp_path: Path) -> None:
    port = free_port()
    async with followed(tmp_path) as node:
        await node.stream.send(1, {key(1): checked(port, 2)})
        await until_status(port, "/", 200)
        await node.stream.receive("ack")
        teleport = ServicePlan(
            required_capabilities=("teleport",), health_check=HealthCheck(node_port=port, local_endpoints=0)
        )
        await node.stream.send(2, {key(1): encode_service_plan(teleport)})
        await node.stream.receive("nack")
        await node.stream.receive("ack")
        assert (await get(port, "/"))[0] == 200


async def test_row_137_programming_time_is_observed_after_the_sync(tmp_path: Path) -> None:
    name = "kubeproxy_network_programming_duration_seconds_count{ip_family="
    async with followed(tmp_path) as node:
        await node.stream.send(1, {key(1): encode_service_plan(numbered(1))})
        await until_status(node.healthz, "/healthz", 200)
        now = time.time_ns()
        old = ChangeOrigin(key(1), trigger_time_ns=now - 3600 * 10**9)
        fresh = ChangeOrigin(key(1), trigger_time_ns=now)
        await node.stream.send(2, {key(1): encode_service_plan(numbered(1, first=2))}, sources=(old, fresh))
        async with asyncio.timeout(DEADLINE_SECONDS):
            while await node.metric(f'{name}"IPv4"') != 1:
                await asyncio.sleep(0.01)
        assert await node.metric(f'{name}"IPv6"') == 0
