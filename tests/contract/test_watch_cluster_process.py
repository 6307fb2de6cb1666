# SPDX-License-Identifier: Apache-2.0
"""The watcher as a process of its own, between an API server with list/watch semantics and a gRPC client."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest

from pointsman.cluster.v1 import cluster_service_pb2 as pb
from pointsman.cluster.v1 import cluster_service_pb2_grpc as pb_grpc
from pointsman_chassis.channel import open_channel
from pointsman_chassis.tls import TransportSecurity
from pointsman_lab.apiserver import ApiClient, ApiServer, ServerOptions, new_cluster
from pointsman_lab.apiserver.resources import ENDPOINTSLICES, SERVICES
from pointsman_model.cluster import Change
from pointsman_model.wire.cluster import change_from_pb
from support.cluster_objects import Json, endpoint_slice_json, service_json
from support.scripted_api_server import write_kubeconfig

DEADLINE_SECONDS = 30.0
INSECURE = TransportSecurity(insecure=True)


class Stream:
    """A WatchCluster call whose changes are kept by key."""

    def __init__(self, call: "grpc.aio.UnaryStreamCall[pb.WatchClusterRequest, pb.WatchClusterResponse]") -> None:
        self._call = call
        self.objects: dict[str, Change] = {}
        self.deltas: list[list[Change]] = []

    async def read(self) -> str:
        async with asyncio.timeout(DEADLINE_SECONDS):
            message = await self._call.read()
        assert isinstance(message, pb.WatchClusterResponse)
        if message.WhichOneof("message") == "delta":
            delta = [change_from_pb(change) for change in message.delta.changes]
            self.deltas.append(delta)
            for change in delta:
                self.objects[str(change.key)] = change
        return message.WhichOneof("message") or ""

    async def read_until_in_sync(self) -> None:
        while await self.read() != "in_sync":
            pass

    async def end(self) -> grpc.StatusCode:
        """Read to the end of the call and tell how it ended."""
        try:
            while True:
                await self.read()
        except grpc.aio.AioRpcError as error:
            return error.code()

    async def read_until(self, name: str, *, exists: bool) -> None:
        """Read on until the object exists, or was removed."""
        while (found := self.objects.get(name)) is None or (found.value is not None) != exists:
            await self.read()


@asynccontextmanager
async def running_watcher(
    folder: Path, api_url: str, port: int, **kubernetes: str | int
) -> AsyncIterator[asyncio.subprocess.Process]:
    write_kubeconfig(folder / "kubeconfig", api_url)
    configuration = {
        "apiVersion": "config.pointsman.io/v1alpha1",
        "kind": "WatcherConfiguration",
        "metricsBindAddress": "",
        "security": {"insecure": True},
        "kubernetes": kubernetes,
    }
    (folder / "watcher.yaml").write_text(json.dumps(configuration))
    flags = ["--config", "watcher.yaml", "--kubeconfig", "kubeconfig", "--listen-address", f"127.0.0.1:{port}"]
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "pointsman_watcher", *flags, cwd=folder)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def stream(port: int) -> AsyncIterator[Stream]:
    """An in-sync stream, once the watcher serves one."""
    channel = open_channel(f"127.0.0.1:{port}", security=INSECURE, reconnect_seconds_max=0.1)
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            opened = Stream(pb_grpc.ClusterServiceStub(channel).WatchCluster(pb.WatchClusterRequest(client_id="test")))
            try:
                await opened.read_until_in_sync()
                break
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017 - any other status is a failure
                await asyncio.sleep(0.05)
    yield opened
    await channel.close()


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    server = ApiServer(new_cluster(), ServerOptions(bookmark_seconds=0.2))
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def kube(api: ApiServer) -> AsyncIterator[ApiClient]:
    async with ApiClient(api.url) as client:
        yield client


def fresh(value: Json) -> Json:
    """Without what only the API server may set."""
    for name in ("resourceVersion", "uid"):
        value["metadata"].pop(name)
    return value


async def create_service(kube: ApiClient, name: str) -> None:
    body = fresh(service_json(f"default/{name}", spec={"clusterIP": None, "clusterIPs": None, "ipFamilies": None}))
    await kube.create(SERVICES, body, "default")


async def test_changes_reach_the_stream_through_faults_without_a_flap(
    api: ApiServer, kube: ApiClient, tmp_path: Path, unused_tcp_port: int
) -> None:
    await create_service(kube, "web")
    async with running_watcher(tmp_path, api.url, unused_tcp_port), stream(unused_tcp_port) as planner:
        assert {"service default/kubernetes", "service default/web"} <= planner.objects.keys()

        await create_service(kube, "one")
        await planner.read_until("service default/one", exists=True)

        api.drop_watches(abrupt=True)
        await create_service(kube, "two")
        await planner.read_until("service default/two", exists=True)

        before = len(planner.deltas)
        api.faults.freeze_watches()
        await kube.delete(SERVICES, "one", "default")
        api.registry.store.compact()
        api.drop_watches(abrupt=True)
        api.faults.thaw_watches()
        await planner.read_until("service default/one", exists=False)
        touched = {str(change.key) for delta in planner.deltas[before:] for change in delta}
        assert touched == {"service default/one"}

        body = fresh(endpoint_slice_json("default/web-1", "web", ["10.244.0.1"]))
        await kube.create(ENDPOINTSLICES, body, "default")
        await planner.read_until("endpoint_slice default/web-1", exists=True)


@pytest.mark.parametrize("way", ["watchList", "chunkedList"])
async def test_both_ways_of_listing_give_the_same_state(
    api: ApiServer, kube: ApiClient, tmp_path: Path, unused_tcp_port: int, way: str
) -> None:
    for number in range(30):
        await create_service(kube, f"s{number}")
    settings: dict[str, str | int] = {"initialList": way, "pageSize": 7}
    async with running_watcher(tmp_path, api.url, unused_tcp_port, **settings), stream(unused_tcp_port) as planner:
        services = {name for name in planner.objects if name.startswith("service default/s")}
        assert services == {f"service default/s{number}" for number in range(30)}
        assert "service_cidr kubernetes" in planner.objects


async def test_losing_the_api_server_keeps_streams_and_state_and_its_return_is_noticed(
    api: ApiServer, kube: ApiClient, tmp_path: Path, unused_tcp_port: int
) -> None:
    async with running_watcher(tmp_path, api.url, unused_tcp_port, backoffMax="200ms") as process:
        async with stream(unused_tcp_port):
            pass
        api.faults.refuse(count=5, code=500, resource="services", verb="watch")
        api.drop_watches(abrupt=True)
        async with stream(unused_tcp_port) as planner:
            assert "service default/kubernetes" in planner.objects
            await create_service(kube, "later")
            await planner.read_until("service default/later", exists=True)
        assert process.returncode is None


async def test_sigterm_ends_it_in_order(api: ApiServer, tmp_path: Path, unused_tcp_port: int) -> None:
    async with running_watcher(tmp_path, api.url, unused_tcp_port) as process:
        async with stream(unused_tcp_port) as planner:
            process.send_signal(signal.SIGTERM)
            assert await planner.end() is grpc.StatusCode.UNAVAILABLE
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert await process.wait() == 0


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"kind": "Other"}, "expected WatcherConfiguration"),
        ({"kubernetes": {"pagesize": 5}}, "did you mean pageSize?"),
        ({"kubernetes": {"stallTimeout": 5}}, "expected a duration"),
        ({"kubernetes": {"pageSize": 0}}, "pageSize must be at least 1"),
        ({"security": {"insecure": False}}, "insecure: true"),
        ({"security": {"insecure": True}, "kubernetes": {"kubeconfig": "/none"}}, "no kubeconfig at /none"),
        ({"security": {"insecure": True}, "metricsBindAddress": "nowhere"}, "is not host:port"),
    ],
)
async def test_a_wrong_configuration_ends_it_with_status_2_and_the_reason(
    api: ApiServer, tmp_path: Path, document: Json, words: str
) -> None:
    write_kubeconfig(tmp_path / "good", api.url)
    base = {
        "apiVersion": "config.pointsman.io/v1alpha1",
        "kind": "WatcherConfiguration",
        "kubernetes": {"kubeconfig": str(tmp_path / "good")},
        "listenAddress": "127.0.0.1:0",
    }
    (tmp_path / "wrong.yaml").write_text(json.dumps({**base, **document}))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KUBE")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pointsman_watcher", "--config", str(tmp_path / "wrong.yaml"),
        stderr=asyncio.subprocess.PIPE, env=environment,
    )  # fmt: skip
    async with asyncio.timeout(DEADLINE_SECONDS):
        _, stderr = await process.communicate()
    assert process.returncode == 2
    assert words in stderr.decode()


async def test_the_effective_configuration_can_be_written_and_read_back(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    for flags in (["--listen-address", "127.0.0.1:1"], ["--config", str(first)]):
        target = second if first.exists() else first
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "pointsman_watcher", *flags, "--write-config-to", str(target)
        )
        assert await process.wait() == 0
    assert first.read_text() == second.read_text()
    assert "listenAddress: 127.0.0.1:1" in second.read_text()
