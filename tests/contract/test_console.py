# SPDX-License-Identifier: Apache-2.0
"""The console over HTTP: who is answered, the headers, the answers, the stream and its bounds."""

import asyncio
import json
import socket

import grpc.aio
import pytest

from pointsman.control.v1 import control_service_pb2 as pb
from pointsman.control.v1 import control_service_pb2_grpc as pb_grpc
from pointsman_model.names import parse_address
from pointsman_planner.console.model import explanation_view
from pointsman_planner.console.stream import CLIENTS_MAX
from support.cluster_objects import service
from support.console_world import console_world, get, node_names, stream
from support.model_enforcer import ModelEnforcer
from support.plan_server import enforcer_client, eventually

PACKET = "node=node-0001&source=10.1.0.9&destination=10.96.0.1&port=80&protocol=TCP"
MANY = 5_000


@pytest.mark.parametrize(
    "path", ["/", "/console.js", "/nodes.js", "/answers.js", "/console.css", "/icon.svg", "/api/services"]
)
async def test_every_answer_is_locked_down(path: str) -> None:
    async with console_world(1) as (_, port):
        status, headers, body = await get(port, path)
    assert (status, bool(body)) == (200, True)
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert not any(name.startswith("access-control") for name in headers)


async def test_strangers_are_not_answered() -> None:
    async with console_world(1) as (_, port):
        for path in ("/", "/api/services", "/api/stream"):
            assert (await get(port, path, Host="evil.example"))[0] == 421
        assert (await get(port, "/api/services", Sec_Fetch_Site="cross-site"))[0] == 403
        assert (await get(port, "/", Sec_Fetch_Site="cross-site"))[0] == 200, "a link to the page may be followed"


async def test_nothing_can_be_written() -> None:
    async with console_world(1) as (_, port):
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"{method} /api/services HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert (await reader.readline()).split()[1] == b"405"
            writer.close()


async def test_explain_gives_the_answer_of_the_control_api() -> None:
    async with console_world(2) as (server, port), grpc.aio.insecure_channel(server.address) as channel:
        status, _, body = await get(port, f"/api/explain?{PACKET}")
        request = pb.ExplainPacketRequest(
            node_name="node-0001",
            source_address=parse_address("10.1.0.9"),
            destination_address=parse_address("10.96.0.1"),
            destination_port=80,
            protocol=6,
        )
        same = await pb_grpc.ControlServiceStub(channel).ExplainPacket(request)  # type: ignore[no-untyped-call] # generated
    assert (status, json.loads(body)) == (200, explanation_view(same))
    assert [each["endpoint"] for each in json.loads(body)["endpoints"]] == ["10.1.0.1:8080"]


async def test_endpoints_come_with_reasons() -> None:
    async with console_world(2) as (_, port):
        _, _, body = await get(port, "/api/endpoints?service=shop/web&node=node-0001")
    rows = {row["endpoint"]: row for row in json.loads(body)["rows"]}
    assert rows["10.1.0.1:8080"]["sets"] == ["cluster"]
    assert "not ready" in rows["10.1.0.2:8080"]["reasons"][0]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/explain?node=node-0001&source=x&destination=10.96.0.1&port=80", 400),
        ("/api/explain?node=node-0001&source=10.0.0.1&destination=10.96.0.1&port=99999", 400),
        ("/api/explain?node=node-0001&source=10.0.0.1&destination=fd00::1&port=80", 400),
        ("/api/explain?node=nobody&source=10.0.0.1&destination=10.96.0.1&port=80", 400),
        ("/api/node?node=nobody", 404),
        ("/api/endpoints?service=web", 400),
        ("/api/endpoints?service=shop/none", 404),
        ("/api/services?like=" + "x" * 301, 400),
        ("/api/nothing", 404),
    ],
)
async def test_bad_questions_get_their_status(path: str, expected: int) -> None:
    async with console_world(1) as (_, port):
        status, _, body = await get(port, path)
    assert (status, bool(body)) == (expected, True)


async def test_the_stream_tells_a_node_that_syncs_and_how_long_a_change_took() -> None:
    async with console_world(3) as (server, port), stream(port) as page:
        await page.until(3)
        assert set(page.states.values()) == {"disconnected"}
        async with enforcer_client(server, ModelEnforcer("node-0002")):
            while page.states["node-0002"] != "synced":
                await page.next()
            server.put(service("shop/api", "10.96.0.7", ports=["p:80"]))
            while not any(
                change["services"] == ["shop/api"] and not change["waiting"] for change in page.changes.values()
            ):
                await page.next()
        change = next(iter(page.changes.values()))
        assert (change["nodes"], change["longest"] > 0) == (1, True)
        while page.states["node-0002"] != "disconnected":
            await page.next()
        assert page.resets == 1


async def test_of_five_thousand_nodes_only_what_changed_is_sent() -> None:
    async with console_world(MANY) as (server, port), stream(port) as page:
        await page.until(MANY)
        assert page.bytes < 60 * MANY
        begun = page.bytes
        async with enforcer_client(server, ModelEnforcer("node-0042")):
            while page.states["node-0042"] != "synced":
                await page.next()
        assert page.bytes - begun < 4_000
        assert sorted(page.states) == node_names(MANY)


async def test_who_comes_back_is_told_only_what_changed() -> None:
    async with console_world(200) as (server, port):
        async with stream(port) as page:
            await page.until(200)
            token = page.token
        async with enforcer_client(server, ModelEnforcer("node-0007")) as client:
            await eventually(lambda: server.is_converged("node-0007"), "node-0007 is synced")
            async with stream(port, token=token) as page:
                message = await page.next()
                assert (message["reset"], message["nodes"]) == (False, [["node-0007", "synced"]])
            assert client.transactions


async def test_a_reader_that_reads_nothing_costs_a_set_of_names_and_gets_the_newest_state() -> None:
    async with console_world(MANY) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        writer.transport.pause_reading()  # type: ignore[attr-defined] # a transport that reads and writes
        writer.write(f"GET /api/stream HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
        await eventually(lambda: server.control.board.node_log.reader_count == 1, "the stream is open")
        for number in range(50):
            server.put(service("shop/churn", f"10.96.1.{number + 1}", ports=["p:80"]))
        async with stream(port) as other:
            await other.until(MANY)
        writer.transport.resume_reading()  # type: ignore[attr-defined] # as above
        data = b""
        while f'"revision":{server.revision}'.encode() not in data:
            data += await reader.read(1 << 16)
        assert len(data) < 120 * MANY
        writer.close()


async def test_one_page_too_many_is_refused_and_pages_that_leave_make_room() -> None:
    async with console_world(1) as (server, port):
        readers = server.control.board.node_log
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CLIENTS_MAX)]
        for _, writer in opened:
            writer.write(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await eventually(lambda: readers.reader_count == CLIENTS_MAX, "all are open")
        status, _, body = await get(port, "/api/stream")
        assert (status, b"pages are open" in body) == (429, True)
        for _, writer in opened:
            writer.close()
        await eventually(lambda: readers.reader_count == 0, "all are forgotten")
        async with stream(port) as page:
            await page.until(1)
