# SPDX-License-Identifier: Apache-2.0
"""`pointsmanctl` shows what a real planner answers, in every form, and ends with the status that its page promises."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator

import pytest
import yaml

from support.cluster_objects import endpoint, endpoint_slice, node, service
from support.model_enforcer import ModelEnforcer
from support.plan_server import PlanServer, enforcer_client, eventually, plan_server
from support.pointsmanctl import ask, pointsmanctl

OBJECTS = (
    node("node-1", "192.168.0.2", labels={"pool": "edge"}),
    node("node-2", "192.168.0.3"),
    service("shop/web", "10.96.0.1", ports=["http:80"], node_ports={"http": 30080}, external_local=True),
    endpoint_slice(
        "shop/web-x",
        "web",
        [endpoint("10.1.0.1", node="node-1"), endpoint("10.1.0.2", node="node-2", ready=False)],
        ["http:8080", "metrics:9090"],
    ),
    service("shop/idle", "10.96.0.2", ports=["p:80"]),
)


@pytest.fixture
async def planner() -> AsyncIterator[PlanServer]:
    """Two nodes, of which node-1 has an enforcer that acknowledged everything."""
    async with plan_server() as server:
        server.put(*OBJECTS)
        async with enforcer_client(server, ModelEnforcer("node-1")):
            await eventually(lambda: server.is_converged("node-1"), "first sync")
            yield server


async def test_status_has_a_row_for_each_node_and_why_it_is_not_synced(planner: PlanServer) -> None:
    ran = await ask(planner.address, "status")
    assert ran.status == 0
    heads, first, second = ran.rows
    assert heads == ["NODE", "MODE", "SHARD", "SENT", "ACKED", "APPLIED", "AGE", "STATE", "REASON"]
    assert (first[0], first[2:6], first[-2]) == ("node-1", ["planner-under-test", "1", "1", "1"], "Synced")
    assert (second[0], second[-2:]) == ("node-2", ["Disconnected", "never connected"])
    assert (await ask(planner.address, "status", "-l", "pool=edge", "-o", "name")).lines == ["node/node-1"]
    wide = await ask(planner.address, "status", "node-2", "-o", "wide", "--no-headers")
    assert len(wide.lines) == 1
    assert "\x1b" not in ran.stdout


async def test_the_forms_for_programs_hold_the_same_facts(planner: PlanServer) -> None:
    ran = await ask(planner.address, "status", "-o", "json")
    nodes = {item["name"]: item for item in ran.data["items"]}
    assert (nodes["node-1"]["state"], nodes["node-1"]["isConverged"]) == ("Synced", True)
    assert nodes["node-1"]["desiredDigest"] == nodes["node-1"]["programmedDigest"]
    assert [reached["level"] for reached in nodes["node-1"]["reached"]] == ["Received", "Programmed"]
    again = yaml.safe_load((await ask(planner.address, "status", "-o", "yaml")).stdout)
    assert [item["name"] for item in again["items"]] == ["node-1", "node-2"]


async def test_services_endpoints_and_plans_are_shown_with_reasons(planner: PlanServer) -> None:
    _, idle, web = (await ask(planner.address, "services")).rows
    assert idle[:2] == ["shop", "idle"]
    assert web == ["shop", "web", "NodePort", "10.96.0.1", "-", "80:30080/TCP", "1/2", "-"]
    ran = await ask(planner.address, "endpoints", "svc/shop/web", "--node", "node-2")
    used, unready, *unused = ran.rows[1:]
    assert used == ["http 80/TCP", "10.1.0.1:8080", "node-1", "Ready", "Cluster", "1", used[-1]]
    assert used[-1] == "Local: traffic policy is Local, and the endpoint is on node node-1"
    assert unready == ["http 80/TCP", "10.1.0.2:8080", "node-2", "NotReady", "no", "0", "not ready"]
    assert [row[0] for row in unused] == ["(no port)"] * 2
    plan = await ask(planner.address, "plan", "node-1", "-o", "name")
    assert plan.lines == ["svc/shop/idle", "svc/shop/web"]
    (planned,) = (await ask(planner.address, "plan", "node-1", "shop/web", "-o", "json")).data["items"]
    assert planned["plan"]["ports"][0]["frontends"][0]["kind"] == "ClusterIP"
    assert planned["plan"]["ports"][0]["endpointSets"][0][0]["address"] == "10.1.0.1"


async def test_explain_says_where_a_packet_goes_and_why(planner: PlanServer) -> None:
    ran = await ask(planner.address, "explain", "10.1.0.9", "10.96.0.1:80", "--node", "node-1")
    assert ran.status == 0
    assert ran.lines[0] == "10.1.0.9 -> 10.96.0.1:80/TCP on node-1: FORWARD"
    assert ran.lines[1] == "The packet goes to one of 1 endpoint (shop/web:http)."
    assert ran.lines[2].startswith("  -> 10.1.0.1:8080   100 %, source ")
    assert ran.lines[-1] == "  10.1.0.2:8080   not ready"
    refused = await ask(planner.address, "explain", "10.1.0.9", "10.96.0.2:80", "--node", "node-1", "-o", "json")
    assert (refused.data["outcome"], refused.data["service"]) == ("Reject", "shop/idle")


async def test_wait_ends_with_0_when_converged_and_with_3_when_the_time_is_over(planner: PlanServer) -> None:
    done = await ask(planner.address, "wait", "--for=converged", "svc/web", "-n", "shop", "--node", "node-1")
    assert (done.status, done.lines) == (0, ["svc/shop/web converged: 1 of 1 nodes have it"])
    late = await ask(planner.address, "wait", "--all", "--timeout", "100ms")
    assert (late.status, late.lines) == (3, ["everything not converged: 1 of 2 nodes have it"])
    assert "node-2: Disconnected: never connected" in late.stderr


async def test_wait_does_not_take_a_service_that_is_not_there_for_converged(planner: PlanServer) -> None:
    typo = await ask(planner.address, "wait", "svc/shop/wbe", "--node", "node-1", "--timeout", "200ms")
    assert (typo.status, typo.stdout) == (3, "")
    assert "has no Service shop/wbe to program" in typo.stderr
    deleted = await ask(
        planner.address, "wait", "svc/shop/gone", "--node", "node-1", "--resource-version", "1", "--timeout", "200ms"
    )
    assert deleted.status in (0, 3)
    assert "to program" not in deleted.stderr


async def test_wait_waits_for_a_service_that_the_planner_has_not_read_yet(planner: PlanServer) -> None:
    waiting = asyncio.create_task(ask(planner.address, "wait", "svc/shop/new", "--node", "node-1"))
    planner.put(service("shop/new", "10.96.0.3", ports=["p:80"]))
    assert (await waiting).lines == ["svc/shop/new converged: 1 of 1 nodes have it"]


async def test_a_node_that_is_not_there_is_an_error_beside_those_that_are(planner: PlanServer) -> None:
    ran = await ask(planner.address, "status", "node-1", "nodeX", "-o", "name")
    assert (ran.status, ran.lines) == (1, ["node/node-1"])
    assert "no such node: nodeX" in ran.stderr


async def test_what_a_planner_refuses_is_said_in_its_words(planner: PlanServer) -> None:
    ran = await ask(planner.address, "endpoints", "shop/ghost")
    assert (ran.status, ran.stdout) == (1, "")
    assert "there is no service shop/ghost" in ran.stderr
    assert "(NOT_FOUND)" in ran.stderr


async def test_a_planner_that_is_away_is_named_and_the_next_one_asked(planner: PlanServer) -> None:
    alone = await pointsmanctl("status", "--insecure", "-s", "127.0.0.1:1")
    assert alone.status == 1
    assert alone.stderr.startswith("error: planner 127.0.0.1:1: cannot connect: ")
    assert "hint: is a planner there" in alone.stderr
    both = await pointsmanctl("status", "--insecure", "-s", "127.0.0.1:1", "-s", planner.address, "-o", "name")
    assert both.lines == ["node/node-1", "node/node-2"]


async def test_a_planner_that_hangs_is_passed_over(planner: PlanServer) -> None:
    """Connections are taken, and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hung = f"127.0.0.1:{silent.getsockname()[1]}"
        ran = await pointsmanctl("version", "--insecure", "-s", hung, "-s", planner.address, "-o", "json")
    assert ran.data["planner"] == planner.address


async def test_plaintext_to_another_machine_is_refused() -> None:
    ran = await pointsmanctl("status", "--insecure", "-s", "192.0.2.1:7444")
    assert ran.status == 2
    assert "plaintext" in ran.stderr


async def test_a_watch_shows_each_change_until_it_is_interrupted(planner: PlanServer) -> None:
    environment = os.environ | {"POINTSMAN_SERVERS": planner.address, "POINTSMAN_INSECURE": "1"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pointsman_ctl", "status", "--watch", env=environment, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(20):
        lines = [(await process.stdout.readline()).decode() for _ in range(3)]
        assert [line.split()[0] for line in lines] == ["NODE", "node-1", "node-2"]
        async with enforcer_client(planner, ModelEnforcer("node-2")):
            while "Synced" not in (line := (await process.stdout.readline()).decode()):
                assert line.startswith("node-2"), "only what changes is shown"
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130


async def test_version_counts_enforcers_by_version(planner: PlanServer) -> None:
    ran = await ask(planner.address, "version", "-o", "json")
    assert ran.data["planner"] == planner.address
    assert sum(ran.data["enforcers"].values()) == 2
