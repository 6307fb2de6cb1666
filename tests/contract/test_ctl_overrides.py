# SPDX-License-Identifier: Apache-2.0
"""`pointsmanctl override` changes, shows and ends overrides at a real planner, and never what somebody else owns."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from support.cluster_objects import endpoint, endpoint_slice, node, service
from support.override_server import VIP, OverrideServer, override_server
from support.pointsmanctl import ask


@pytest.fixture
async def planner() -> AsyncIterator[OverrideServer]:
    async with override_server() as server:
        server.put(
            node("node-a", "192.168.0.2"),
            service("shop/web", VIP, ports=["p:80"]),
            endpoint_slice(
                "shop/web-1", "web", [endpoint("10.1.0.1", node="node-a"), endpoint("10.1.0.2")], ["p:8080"]
            ),
        )
        yield server


async def test_a_drain_is_in_force_until_it_is_deleted(planner: OverrideServer) -> None:
    arguments = (
        "override",
        "drain",
        "maintenance",
        "node=node-a",
        "--ttl",
        "1h",
        "--reason",
        "kernel",
        "--owner",
        "me",
    )
    made = await ask(planner.address, *arguments)
    assert (made.status, made.lines) == (0, ["override/maintenance created: drain node=node-a"])
    assert planner.endpoints() == {"10.1.0.2": 1}
    assert (await ask(planner.address, *arguments)).lines == ["override/maintenance unchanged: drain node=node-a"]
    heads, row = (await ask(planner.address, "override", "list")).rows
    assert heads == ["NAME", "KIND", "SERVICE", "WHAT", "OWNER", "AGE", "EXPIRES", "REASON"]
    assert row[:5] == ["maintenance", "drain", "(all)", "node=node-a", "me"]
    assert row[-1] == "kernel"
    gone = await ask(planner.address, "override", "delete", "maintenance", "--owner", "me")
    assert gone.lines == ["override/maintenance deleted"]
    assert planner.endpoints() == {"10.1.0.1": 1, "10.1.0.2": 1}


async def test_a_dry_run_checks_and_changes_nothing(planner: OverrideServer) -> None:
    ran = await ask(planner.address, "override", "pin", "one", "address=10.9.9.9", "--service", "shop/web", "--dry-run")
    assert (ran.status, ran.lines) == (0, ["override/shop/one created (dry run): pin address=10.9.9.9"])
    assert "warning: " in ran.stderr
    assert planner.endpoints() == {"10.1.0.1": 1, "10.1.0.2": 1}


async def test_weights_and_registrations_reach_the_plan(planner: OverrideServer) -> None:
    ran = await ask(
        planner.address, "override", "weight", "canary", "--service", "shop/web", "--rule", "address=10.1.0.2", "3"
    )
    assert ran.status == 0, ran.stderr
    assert planner.endpoints() == {"10.1.0.1": 1, "10.1.0.2": 3}
    ran = await ask(
        planner.address, "override", "register", "vms", "--service", "shop/web", "--port", "p:9000",
        "--endpoint", "10.7.0.1@node-a", "--ttl", "60s", "-o", "json",
    )  # fmt: skip
    assert ran.data["spec"]["register"]["endpoints"][0]["address"] == "10.7.0.1"
    assert planner.endpoints()["10.7.0.1"] == 1
    renewed = await ask(planner.address, "override", "renew", "shop/vms")
    assert renewed.lines[0].startswith("override/shop/vms renewed until 20")


async def test_what_get_prints_apply_reads(planner: OverrideServer, tmp_path: Path) -> None:
    await ask(planner.address, "override", "drain", "d", "address=10.1.0.1", "--service", "shop/web", "--owner", "me")
    document = yaml.safe_load((await ask(planner.address, "override", "get", "shop/d")).stdout)
    document["spec"]["drain"]["endpoints"]["address"] = "10.1.0.2"
    file = tmp_path / "override.yaml"
    file.write_text(yaml.safe_dump(document))
    ran = await ask(planner.address, "override", "apply", "-f", str(file))
    assert ran.lines == ["override/shop/d changed: drain address=10.1.0.2"]
    assert planner.endpoints() == {"10.1.0.1": 1}
    stale = await ask(planner.address, "override", "apply", "-f", str(file))
    assert (stale.status, "(ABORTED)" in stale.stderr) == (1, True)


async def test_somebody_elses_override_is_left_alone_unless_taken_over(planner: OverrideServer) -> None:
    mine = ("override", "drain", "d", "address=10.1.0.1", "--service", "shop/web")
    await ask(planner.address, *mine, "--owner", "them")
    for command in ((*mine, "--owner", "me"), ("override", "delete", "shop/d", "--owner", "me")):
        ran = await ask(planner.address, *command)
        assert (ran.status, ran.stdout) == (1, "")
        assert "belongs to 'them', and you are 'me'; nothing was changed" in ran.stderr
    taken = await ask(planner.address, *mine, "--owner", "me", "--take-over")
    assert taken.lines == ["override/shop/d changed: drain address=10.1.0.1"]


async def test_a_file_with_mistakes_is_refused_with_each_of_them(planner: OverrideServer) -> None:
    text = "owner: me\nspec: {serviceNam: web, ttl: 1h, drain: {endpoints: {address: nowhere, port: many}}}\n"
    ran = await ask(planner.address, "override", "apply", "-f", "-", stdin=text)
    assert ran.status == 2
    for said in (
        "spec.serviceNam: unknown field; did you mean serviceName?",
        "spec.drain.endpoints.address: 'nowhere' does not appear to be an IPv4 or IPv6 address",
        "spec.drain.endpoints.port: expected a whole number, got 'many'",
    ):
        assert said in ran.stderr
