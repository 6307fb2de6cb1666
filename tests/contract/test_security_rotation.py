# SPDX-License-Identifier: Apache-2.0
"""Certificates are rotated by replacing files: real handshakes before, while and after, on every link."""

import asyncio
import datetime as dt
import ssl
from pathlib import Path

import grpc
import grpc.aio

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman_chassis.channel import open_channel
from pointsman_chassis.tls import TransportSecurity
from pointsman_planner.store.connection import RedisSettings
from support.certificates import Authority
from support.cluster_objects import node, service
from support.enforcer_node import Node
from support.guarded_planner import GuardedPlanner, control, guarded_planner
from support.plan_server import DEADLINE_SECONDS, eventually
from support.planner_stores import redis_store, running
from support.redis_server import RedisServer, free_port


async def answers(planner: GuardedPlanner, security: TransportSecurity) -> bool:
    """Whether a new connection is served."""
    async with open_channel(planner.address, security=security) as channel:
        try:
            await control(channel).ListNodes(pb.ListNodesRequest(), timeout=DEADLINE_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
        return True


async def test_a_new_ca_takes_over_through_a_bundle_of_old_and_new_without_a_refused_connection(
    tmp_path: Path,
) -> None:
    async with guarded_planner(tmp_path) as planner:
        old, new = planner.authority, Authority("pointsman test 2")
        both = (old, new)
        assert await answers(planner, planner.identity("alice"))
        # 1. Everybody trusts both.
        old.issue(tmp_path, "localhost", trust=both)
        assert await answers(planner, planner.identity("alice"))
        assert await answers(planner, planner.identity("alice", trust=both))
        # 2. New certificates, in whatever order.
        assert await answers(planner, new.issue(tmp_path, "alice", server_name="localhost", trust=both))
        new.issue(tmp_path, "localhost", trust=both)
        assert await answers(planner, planner.identity("alice", trust=both))
        assert await answers(planner, new.issue(tmp_path, "alice", server_name="localhost", trust=both))
        # 3. Nobody trusts the old one any more.
        new.issue(tmp_path, "localhost", trust=new)
        assert await answers(planner, new.issue(tmp_path, "alice", server_name="localhost", trust=new))
        assert not await answers(planner, planner.identity("alice", trust=both))


async def test_a_running_stream_outlives_a_rotation_and_new_connections_see_it(tmp_path: Path) -> None:
    async with guarded_planner(tmp_path) as planner, planner.dial("alice") as channel:
        watch = control(channel).WatchNodes(pb.WatchNodesRequest())
        assert await watch.read()
        shown = await served_certificate(planner)
        planner.authority.issue(tmp_path, "localhost")
        assert await served_certificate(planner) != shown
        assert await watch.read()
        watch.cancel()


async def test_half_a_rotation_leaves_the_certificate_before_in_use(tmp_path: Path) -> None:
    async with guarded_planner(tmp_path) as planner:
        shown = await served_certificate(planner)
        _remove(planner.security.key_file)
        assert await served_certificate(planner) == shown


async def served_certificate(planner: GuardedPlanner) -> bytes | None:
    files = planner.identity("looker")
    context = ssl.create_default_context(cafile=files.ca_file)
    context.load_cert_chain(files.cert_file, files.key_file)
    context.set_alpn_protocols(["h2"])
    async with asyncio.timeout(DEADLINE_SECONDS):
        _, writer = await asyncio.open_connection("127.0.0.1", planner.port, ssl=context, server_hostname="localhost")
    tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
    shown = tls.getpeercert(binary_form=True)
    writer.transport.abort()
    return shown


async def test_an_enforcer_comes_back_with_the_new_certificate_when_the_one_before_expires(tmp_path: Path) -> None:
    async with guarded_planner(tmp_path) as planner:
        planner.put(node("node-1", "192.168.0.4"))
        short = planner.identity("node-1", valid_for=dt.timedelta(seconds=4))
        (tmp_path / "state").mkdir()
        machine = Node(tmp_path / "state")
        async with machine.enforcer(planner.address, security=short):
            await eventually(lambda: planner.is_converged("node-1"), "it has its plan")
            planner.identity("node-1")
            await eventually(lambda: planner.refused("unauthenticated") >= 1, "the first certificate expires")
            planner.put(service("shop/new", "10.96.0.77"))
            await eventually(lambda: "10.96.0.77" in machine.vips(), "the new one is taken")
        assert "10.96.0.1" in machine.vips()


def redis_with(directory: Path, files: TransportSecurity, port: int) -> RedisServer:
    return RedisServer(
        directory, "--port", "0", "--tls-port", str(port), "--tls-cert-file", files.cert_file,
        "--tls-key-file", files.key_file, "--tls-ca-cert-file", files.ca_file, port=port,
    )  # fmt: skip


async def test_redis_a_new_connection_uses_the_new_files(tmp_path: Path) -> None:
    old, new, port = Authority("redis"), Authority("redis 2"), free_port()
    server_files, client_files = (old.issue(tmp_path, name) for name in ("localhost", "planner"))
    settings = RedisSettings(
        ca_file=client_files.ca_file, cert_file=client_files.cert_file, key_file=client_files.key_file
    )
    server = redis_with(tmp_path, server_files, port)
    await server.start()
    store = redis_store(f"rediss://localhost:{port}/0", settings=settings)
    try:
        async with running(store):
            await eventually(lambda: store.is_available, "it is reached")
            server.stop()
            await eventually(lambda: not store.is_available, "it is gone")
            for name in ("localhost", "planner"):
                new.issue(tmp_path, name)
            await server.start()
            await eventually(lambda: store.is_available, "it is reached with the new files")
    finally:
        await store.close()
        server.stop()


def _remove(path: str) -> None:
    Path(path).unlink()
