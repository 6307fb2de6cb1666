# SPDX-License-Identifier: Apache-2.0
"""The planner as the process an operator starts: flags, configuration, start gate and health, sync, shutdown."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from pointsman.cluster.v1 import cluster_service_pb2 as cluster_pb
from pointsman.cluster.v1 import cluster_service_pb2_grpc as cluster_grpc
from pointsman.control.v1 import control_service_pb2 as control_pb
from pointsman.control.v1 import control_service_pb2_grpc as control_grpc
from pointsman_model.cluster import Change, key_of
from pointsman_model.names import ServiceKey
from pointsman_model.wire.cluster import change_to_pb
from support.cluster_objects import endpoint_slice, node, service
from support.model_enforcer import ModelEnforcer
from support.plan_server import DEADLINE_SECONDS, EnforcerClient, eventually

OBJECTS = (
    node("node-a", "192.168.0.2"),
    service("shop/web", "10.96.0.1", ports=["p:80"]),
    endpoint_slice("shop/web-x", "web", ["10.1.0.1"], ["p:80"]),
)

SERVICES = (
    "pointsman.plan.v1.PlanService",
    "pointsman.control.v1.ControlService",
    "pointsman.control.v1.OverrideService",
)


class Watcher(cluster_grpc.ClusterServiceServicer):
    """Sends one snapshot once it is released."""

    def __init__(self) -> None:
        self.release = asyncio.Event()

    async def WatchCluster(  # noqa: N802 - the name in the proto
        self, request: object, context: object
    ) -> AsyncIterator[cluster_pb.WatchClusterResponse]:
        opened = cluster_pb.Opened(
            epoch="e", revision=4, start=cluster_pb.Opened.START_SNAPSHOT, heartbeat_interval_ms=60_000
        )
        yield cluster_pb.WatchClusterResponse(opened=opened)
        await self.release.wait()
        changes = [change_to_pb(Change(key=key_of(value), value=value)) for value in OBJECTS]
        yield cluster_pb.WatchClusterResponse(delta=cluster_pb.Delta(revision=4, changes=changes, complete=True))
        yield cluster_pb.WatchClusterResponse(in_sync=cluster_pb.InSync(revision=4))
        await asyncio.Event().wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def planner(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "pointsman_planner",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def finished(process: asyncio.subprocess.Process) -> tuple[int | None, str, str]:
    async with asyncio.timeout(DEADLINE_SECONDS):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@asynccontextmanager
async def watching() -> AsyncIterator[tuple[Watcher, int]]:
    watcher, server = Watcher(), grpc.aio.server()
    cluster_grpc.add_ClusterServiceServicer_to_server(watcher, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield watcher, port
    finally:
        await server.stop(0)


async def test_version_and_written_configuration(tmp_path: Path) -> None:
    status, out, _ = await finished(await planner("--version"))
    assert (status, out.startswith("pointsman-planner ")) == (0, True)
    written = tmp_path / "planner.yaml"
    status, _, err = await finished(await planner("--listen-address", "127.0.0.1:9", "--write-config-to", str(written)))
    assert (status, err) == (0, "")
    document = yaml.safe_load(written.read_text())
    assert (document["kind"], document["listenAddress"]) == ("PlannerConfiguration", "127.0.0.1:9")
    again = tmp_path / "again.yaml"
    await finished(await planner("--config", str(written), "--write-config-to", str(again)))
    assert again.read_text() == written.read_text()


async def test_a_wrong_configuration_is_refused_with_every_problem(tmp_path: Path) -> None:
    path = tmp_path / "planner.yaml"
    path.write_text(
        "apiVersion: config.pointsman.io/v1alpha1\nkind: PlannerConfiguration\n"
        "watcherAdresses: [a]\nheartbeatInterval: 5\nmassDeleteGuard: {share: 7}\n"
    )
    status, _, err = await finished(await planner("--config", str(path)))
    assert status == 2
    assert all(word in err for word in ("watcherAdresses", "watcherAddresses", "heartbeatInterval", "massDeleteGuard"))


async def test_plaintext_is_never_assumed() -> None:
    status, _, err = await finished(await planner("--listen-address", "127.0.0.1:0"))
    assert status == 2
    assert "insecure: true" in err


async def test_from_start_to_sync_to_shutdown(tmp_path: Path) -> None:
    port, metrics_port = free_port(), free_port()
    async with watching() as (watcher, watcher_port), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        path = tmp_path / "planner.yaml"
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "config.pointsman.io/v1alpha1",
                    "kind": "PlannerConfiguration",
                    "watcherAddresses": [f"127.0.0.1:{watcher_port}"],
                    "listenAddress": f"127.0.0.1:{port}",
                    "metricsBindAddress": f"127.0.0.1:{metrics_port}",
                    "redisURL": "redis://:secret@127.0.0.1:1/0",
                    "plannerID": "p1",
                    "security": {"insecure": True},
                }
            )
        )
        process = await planner("--config", str(path))
        try:
            enforcer = ModelEnforcer("node-a")
            async with asyncio.timeout(DEADLINE_SECONDS):
                await channel.channel_ready()
            client = EnforcerClient(channel, enforcer)
            await client.start()
            await eventually(lambda: bool(client.responses), "the welcome")
            assert client.responses[0].welcome.planner_id == "p1"
            assert await health(channel) == health_pb2.HealthCheckResponse.NOT_SERVING
            assert (await http(metrics_port, "/readyz"))[0] == 503
            watcher.release.set()
            await eventually(lambda: ServiceKey("shop", "web") in enforcer.plans, "the plan")
            async with asyncio.timeout(DEADLINE_SECONDS):
                while await health(channel) != health_pb2.HealthCheckResponse.SERVING:
                    await asyncio.sleep(0.01)
            assert (await http(metrics_port, "/readyz"))[0] == 200
            assert "pointsman_planner_services 1.0" in (await http(metrics_port, "/metrics"))[1]
            assert "secret" not in (await http(metrics_port, "/configz"))[1]
            for name in SERVICES:
                assert await health(channel, name) == health_pb2.HealthCheckResponse.SERVING
            assert set(SERVICES) <= await reflected(channel)
            watch: Any = control_grpc.ControlServiceStub(channel).WatchNodes(control_pb.WatchNodesRequest())
            assert (await watch.read()).opened.planner_id == "p1"
            while not (await watch.read()).HasField("synced"):
                pass
            process.terminate()
            status, _, err = await finished(process)
            assert status == 0, err
            async with asyncio.timeout(DEADLINE_SECONDS):
                assert await watch.code() is grpc.StatusCode.UNAVAILABLE
            assert "secret" not in err
            assert '"msg": "in sync"' in err
            await client.close()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def reflected(channel: grpc.aio.Channel) -> set[str]:
    """The services that a planner names to whoever asks what there is."""
    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    await call.done_writing()
    answer = await call.read()
    return {service.name for service in answer.list_services_response.service}


async def health(channel: grpc.aio.Channel, service: str = "") -> int:
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    status: int = answer.status
    return status


async def http(port: int, path: str) -> tuple[int, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    return int(answer.split()[1]), answer
