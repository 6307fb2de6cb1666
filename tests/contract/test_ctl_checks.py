# SPDX-License-Identifier: Apache-2.0
"""`pointsmanctl check`, `diff` and `rules` against real planners: well, behind, unreachable, or about to expire."""

from __future__ import annotations

import datetime as dt
import tarfile
from pathlib import Path
from xml.etree import ElementTree as ET

from support.certificates import Authority
from support.cluster_objects import endpoint, endpoint_slice, node, service
from support.model_enforcer import ModelEnforcer
from support.plan_server import enforcer_client, eventually, plan_server
from support.pointsmanctl import Ran, ask, pointsmanctl

OBJECTS = (
    node("node-1", "192.168.0.2"),
    node("node-2", "192.168.0.3"),
    service("shop/web", "10.96.0.1", ports=["http:80"], node_ports={"http": 30080}),
    endpoint_slice("shop/web-x", "web", [endpoint("10.1.0.1", node="node-1")], ["http:8080"]),
)
PLANNERS_ONLY = ("check", "--skip", "cluster", "-o", "json")


def outcomes(ran: Ran) -> dict[str, tuple[str, str]]:
    """Outcome and message by name; every complaint has a hint."""
    items = ran.data["items"]
    assert all(item["hint"] for item in items if item["outcome"] in ("failed", "warning"))
    return {item["name"]: (item["outcome"], item["message"]) for item in items}


async def test_a_node_without_enforcer_fails_the_check_and_the_report_names_it(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    async with plan_server(heartbeat_seconds=3.0) as server:
        server.put(*OBJECTS)
        async with enforcer_client(server, ModelEnforcer("node-1")):
            await eventually(lambda: server.is_converged("node-1"), "first sync")
            ran = await ask(server.address, *PLANNERS_ONLY, "--junit", str(report))
    assert (ran.status, ran.data["passed"]) == (1, False)
    found = outcomes(ran)
    assert found[server.address][0] == "passed"
    assert found["converged"] == ("failed", "node-2 Disconnected (never connected)")
    assert found[f"clock of {server.address}"] == ("passed", "agrees with this machine's within a second")
    assert found["pages"][0] == "failed", "no pages are named, and kubectl reaches no cluster"
    suite = ET.fromstring(report.read_text())  # noqa: S314 - written by the command under test
    assert int(suite.get("failures", "0")) == ran.data["summary"]["failed"]


async def test_a_planner_that_is_not_in_sync_or_not_there_fails_by_its_name() -> None:
    async with plan_server() as server:
        ran = await pointsmanctl(*PLANNERS_ONLY, "--insecure", "-s", server.address, "-s", "127.0.0.1:1")
    found = outcomes(ran)
    assert found[server.address][0] == "failed"
    assert "FAILED_PRECONDITION" in found[server.address][1]
    assert "UNAVAILABLE" in found["127.0.0.1:1"][1]


async def test_certificates_are_looked_at_from_both_sides(tmp_path: Path) -> None:
    authority = Authority("test")
    served = authority.issue(tmp_path, "localhost", valid_for=dt.timedelta(hours=5))
    mine = authority.issue(tmp_path, "me")
    async with plan_server(security=served, heartbeat_seconds=0.1) as server:
        server.put(*OBJECTS)
        address = f"localhost:{server.port}"
        identity = ("--tls-cert", mine.cert_file, "--tls-key", mine.key_file, "--tls-ca", mine.ca_file)
        found = outcomes(await pointsmanctl(*PLANNERS_ONLY, "-s", address, *identity))
        assert found[f"of {address}"] == ("failed", "expires in 5 hours")
        assert found[f"mine ({mine.cert_file})"][0] in ("passed", "failed")
        stranger = Authority("another").issue(tmp_path, "stranger")
        wrong = ("--tls-cert", stranger.cert_file, "--tls-key", stranger.key_file, "--tls-ca", stranger.ca_file)
        found = outcomes(await pointsmanctl(*PLANNERS_ONLY, "-s", address, *wrong))
        assert found[f"of {address}"][0] == "failed"
        assert "CERTIFICATE_VERIFY_FAILED" in found[f"of {address}"][1]


async def test_diff_proves_equality_and_names_what_is_on_its_way() -> None:
    async with plan_server() as server:
        server.put(*OBJECTS)
        async with enforcer_client(server, ModelEnforcer("node-1")) as client:
            await eventually(lambda: server.is_converged("node-1"), "first sync")
            equal = await ask(server.address, "diff", "node-1")
            assert equal.status == 0
            assert equal.lines[-1] == "node-1 is Synced: its kernel has what the planner wants, by digest."
            client.acks = False
            server.put(service("shop/new", "10.96.0.7", ports=["p:80"]))
            await eventually(lambda: len(client.transactions) == 2, "sent")
            differing = await ask(server.address, "diff", "node-1")
        assert differing.status == 1
        assert differing.rows[-2:] == [
            ["SERVICE", "PLAN IS", "WHY"],
            ["shop/new", "Sent", "sent, and not acknowledged yet"],
        ]
        gone = await ask(server.address, "diff", "node-2", "-o", "json")
        assert (gone.status, gone.data["state"], gone.data["items"]) == (1, "Disconnected", [])
        assert (await ask(server.address, "diff", "node-9")).status == 1


async def test_rules_spell_the_plan_out() -> None:
    async with plan_server() as server:
        server.put(*OBJECTS)
        ran = await ask(server.address, "rules", "node-1", "shop/web", "--no-headers")
        assert [(row[1], row[2]) for row in ran.rows] == [
            ("10.96.0.1:80/TCP", "ClusterIP"),
            ("10.96.0.1:80/TCP", "ClusterIP"),
            ("(node IPv4):30080/TCP", "NodePort"),
        ]
        assert ran.rows[0][3:] == ["pod", "Forward", "10.1.0.1:8080"]
        data = (await ask(server.address, "rules", "node-1", "-o", "json")).data
        assert {tuple(rule["from"]) for rule in data["items"]} == {
            ("pod",), ("host", "outside"), ("pod", "host", "outside"),
        }  # fmt: skip


async def test_a_connectivity_test_of_what_is_not_there_is_a_usage_error() -> None:
    async with plan_server() as server:
        server.put(*OBJECTS)
        ran = await ask(server.address, "connectivity-test", "shop/nothing", "--node", "node-1")
        assert (ran.status, ran.stdout) == (2, "")
        assert "the plan of node-1 has no shop/nothing" in ran.stderr
        ran = await ask(server.address, "connectivity-test", "--node", "laptop")
        assert (ran.status, "run this on a node; or give --node, and --from" in ran.stderr) == (2, True)
        ran = await ask(server.address, "connectivity-test", "--node", "node-1", "--from", "/nonexistent/tool")
        assert (ran.status, ran.stdout) == (2, "")
        assert "cannot be run" in ran.stderr


async def test_config_view_shows_the_context_in_use_and_no_key() -> None:
    ran = await pointsmanctl("config", "view", "-s", "a:1", "--tls-cert", "c", "--tls-key", "k", "--tls-ca", "ca")
    assert "certFile: c" in ran.stdout
    assert "- a:1" in ran.stdout


async def test_a_sysdump_of_nothing_that_answers_is_a_failure_and_says_of_each_part_why(tmp_path: Path) -> None:
    file = tmp_path / "dump.tar.gz"
    ran = await pointsmanctl("sysdump", "-f", str(file), "--insecure", "-s", "127.0.0.1:1", "--skip-cluster")
    assert (ran.status, ran.lines) == (1, [str(file)])
    assert "not collected: control/nodes.json: planner 127.0.0.1:1: cannot connect: " in ran.stderr
    with tarfile.open(file) as archive:
        assert [name.partition("/")[2] for name in archive.getnames()] == ["check.json", "manifest.json"]
