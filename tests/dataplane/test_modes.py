# SPDX-License-Identifier: Apache-2.0
"""The enforcer in each mode of this kernel: it serves, says its mode, changes nothing twice, and cleans up."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mode_switch.scene import ON_HOST, Scene

from pointsman_enforcer.dataplane.nftables.message import Family
from support.nft_world import World
from support.traffic import seen

pytestmark = pytest.mark.root
UNUSABLE_NODE = 3


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World(Family.IPV4) as made:
        yield made


def rules(world: World) -> tuple[str, ...]:
    run = world.node.run
    return (world.node.ruleset(), *(run("cat", f"/proc/net/{name}", check=False) for name in ("ip_tables_names",)))


@pytest.mark.parametrize("mode", ON_HOST)
def test_each_mode_serves_says_which_it_is_and_is_removed_by_cleanup(world: World, tmp_path: Path, mode: str) -> None:
    scene = Scene(world, tmp_path)
    scene.configure(mode)
    assert scene.node.command("--init-only") == ""
    assert scene.kinds() == set(), "nothing is programmed yet"
    with scene.running(mode):
        assert seen(world.pod, world.at.cluster_ip)[0] == {"pod1", "pod2"}
        assert seen(world.pod, world.at.cluster_ip, udp=True)[0] == {"pod1", "pod2"}
        assert scene.node.get("http://127.0.0.1:10249/proxyMode") == ON_HOST[mode]["mode"]
        status = scene.node.status()
        assert (status["mode"], status["modeReason"], status["failed"]) == (ON_HOST[mode]["mode"], "configured", {})
    assert scene.kinds() == {scene.kind_of(mode)}
    dry = scene.node.command("--dry-run")
    assert "# 2 services" in dry
    assert ("# nothing to change" in dry) is (mode != "userspace"), "a proxy listens elsewhere each time"
    assert "removed " in scene.node.command("--cleanup")
    assert scene.kinds() == set()
    assert scene.node.command("--cleanup") == ""


@pytest.mark.parametrize(("before", "after"), [("nftables", "iptables-legacy"), ("userspace", "iptables-nft")])
def test_a_change_of_mode_fails_no_connection_and_keeps_flows(
    world: World, tmp_path: Path, before: str, after: str
) -> None:
    counts = Scene(world, tmp_path).switch(before, after)
    assert counts.opened > 50
    assert counts.failed == {}
    if before != "userspace":
        assert counts.reset == {}


def test_probe_needs_no_configuration_and_changes_nothing(world: World) -> None:
    before = rules(world)
    command = (sys.executable, "-m", "pointsman_enforcer", "probe", "-o", "json")
    report = json.loads(world.node.run(*command))
    assert rules(world) == before
    outcomes = {(each["mode"], each["settings"]): each for each in report["modes"]}
    assert outcomes["nftables", ""]["outcome"] == "works"
    assert outcomes["nftables", ""]["families"] == ["IPv4", "IPv6"]
    assert outcomes["iptables", "iptables.variant: nft"]["capabilities"] == ["affinity", "source-ranges", "weights"]
    assert outcomes["userspace", "userspace.redirect: none"]["capabilities"] == ["affinity", "weights"]
    assert all(each["reason"] for each in report["modes"] if each["outcome"] != "works")
    assert report["tools"]["nft"].startswith("nftables v")


def test_without_the_right_to_make_a_namespace_nothing_is_tried_and_auto_goes_by_a_look(
    world: World, tmp_path: Path
) -> None:
    confined = ("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin")
    command = (*confined, sys.executable, "-m", "pointsman_enforcer", "probe", "--mode", "nftables", "-o", "json")
    with world.node.popen(*command, stdout=subprocess.PIPE) as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert json.loads(said)["modes"][0]["outcome"] == "not tried"
    scene = Scene(world, tmp_path)
    with scene.running("auto", confined):
        assert scene.node.status()["mode"] == "nftables"
    scene.node.command("--cleanup")


def test_auto_says_in_log_and_status_what_it_chose_and_why(world: World, tmp_path: Path) -> None:
    scene = Scene(world, tmp_path)
    with scene.running("auto"):
        status = scene.node.status()
        assert status["mode"] == "nftables"
        assert status["modeReason"].startswith("auto: the first of nftables, iptables, ipvs, userspace")
    assert "the first of nftables" in (tmp_path / "log-auto").read_text()
    scene.node.command("--cleanup")


@pytest.mark.parametrize("mode", ["iptables-legacy", "iptables-nft"])
def test_a_mode_that_cannot_run_ends_the_process_with_what_is_missing(world: World, tmp_path: Path, mode: str) -> None:
    scene = Scene(world, tmp_path)
    scene.configure(mode)
    argv = ("env", "PATH=/nowhere", sys.executable, "-m", "pointsman_enforcer", "--config")
    with world.node.popen(*argv, str(scene.node.config_file), stderr=subprocess.PIPE) as process:
        _, said = process.communicate(timeout=30)
    assert process.returncode == UNUSABLE_NODE
    assert b"which is not installed" in said
    assert b"Traceback" not in said
