# SPDX-License-Identifier: Apache-2.0
"""What the lab tells the three services."""

from pathlib import Path

from pointsman_lab.net.topology import build_topology
from pointsman_lab.settings import LabSettings, decode_settings, encode_settings
from pointsman_lab.statedir import StateDirectory
from pointsman_lab.supervise.services import Site, enforcer_plan, planner_plan, watcher_plan


def site(tmp_path: Path, **settings: object) -> Site:
    return Site(
        settings=LabSettings(**settings),  # type: ignore[arg-type]  # tests pass only fields that exist
        topology=build_topology(nodes=2, zones=1),
        state=StateDirectory(tmp_path, "a"),
    )


def test_planners_dial_the_watcher_and_enforcers_dial_the_planner(tmp_path: Path) -> None:
    here = site(tmp_path)
    watcher, planner = watcher_plan(here), planner_plan(here)
    enforcer = enforcer_plan(here, here.topology.nodes[1])
    assert planner.config["watcherAddresses"] == [watcher.config["listenAddress"]]
    assert enforcer.config["plannerAddresses"] == [planner.config["listenAddress"]]
    assert (enforcer.place, enforcer.config["hostnameOverride"]) == ("node-2", "node-2")
    assert all(plan.config["security"] == {"insecure": True} for plan in (watcher, planner, enforcer))


def test_tracing_and_redis_are_configured_only_when_they_run(tmp_path: Path) -> None:
    with_all, bare = site(tmp_path), site(tmp_path, services=("planner",))
    assert "redisURL" in planner_plan(with_all).config
    assert "redisURL" not in planner_plan(bare).config
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in planner_plan(with_all).env
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" not in planner_plan(bare).env


def test_a_command_can_be_replaced(tmp_path: Path) -> None:
    plan = watcher_plan(site(tmp_path, watcher_command=("my-watcher",)))
    assert plan.argv == ("my-watcher", "--config", str(tmp_path / "a" / "config" / "watcher.yaml"))


def test_settings_survive_their_file() -> None:
    settings = LabSettings(name="x", nodes=5, environment={"A": "b"})
    assert decode_settings(encode_settings(settings)) == settings
