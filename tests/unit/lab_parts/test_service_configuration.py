# SPDX-License-Identifier: Apache-2.0
"""What the lab tells the three services."""

from pathlib import Path

import msgspec

from pointsman_lab.settings import LabSettings, decode_settings, encode_settings
from pointsman_lab.statedir import StateDirectory
from pointsman_lab.supervise.services import ServicePlan, Site, enforcer_plan, planner_plan, watcher_plan


def site(tmp_path: Path, **settings: object) -> Site:
    return Site(
        settings=LabSettings(**{"nodes": 2, "zones": 1} | settings),  # type: ignore[arg-type]  # tests pass only fields that exist
        state=StateDirectory(tmp_path, "a"),
    )


def test_every_planner_dials_all_watchers_and_every_enforcer_all_planners(tmp_path: Path) -> None:
    here = site(tmp_path, watchers=2, planners=3)
    watchers = [watcher_plan(here, member) for member in here.topology.watchers]
    planners = [planner_plan(here, member) for member in here.topology.planners]
    enforcer = enforcer_plan(here, here.topology.nodes[1])
    for planner in planners:
        assert planner.config["watcherAddresses"] == [watcher.config["listenAddress"] for watcher in watchers]
    assert enforcer.config["plannerAddresses"] == [planner.config["listenAddress"] for planner in planners]
    assert (enforcer.place, enforcer.config["hostnameOverride"]) == ("node-2", "node-2")
    assert [planner.config["plannerID"] for planner in planners] == ["planner-1", "planner-2", "planner-3"]


def test_every_process_has_a_certificate_of_its_own_and_the_same_authority(tmp_path: Path) -> None:
    here = site(tmp_path, watchers=1, planners=2)
    topology = here.topology
    plans = [watcher_plan(here, topology.watchers[0])]
    plans += [planner_plan(here, member) for member in topology.planners]
    plans += [enforcer_plan(here, node) for node in topology.nodes]
    securities = [parse_security(plan) for plan in plans]
    assert len({security["certFile"] for security in securities}) == len(plans)
    assert len({security["keyFile"] for security in securities}) == len(plans)
    assert {security["caFile"] for security in securities} == {str(tmp_path / "a" / "pki" / "ca.crt")}


def parse_security(plan: ServicePlan) -> dict[str, str]:
    return msgspec.convert(plan.config["security"], dict[str, str])


def test_tracing_and_redis_are_configured_only_when_they_run(tmp_path: Path) -> None:
    with_all, bare = site(tmp_path), site(tmp_path, services=("planner",))
    member = with_all.topology.planners[0]
    assert "redisURL" in planner_plan(with_all, member).config
    assert "redisURL" not in planner_plan(bare, member).config
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in planner_plan(with_all, member).env
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" not in planner_plan(bare, member).env


def test_a_command_can_be_replaced(tmp_path: Path) -> None:
    here = site(tmp_path, watchers=1, watcher_command=("my-watcher",))
    plan = watcher_plan(here, here.topology.watchers[0])
    assert plan.argv == ("my-watcher", "--config", str(tmp_path / "a" / "config" / "watcher.yaml"))


def test_settings_survive_their_file() -> None:
    settings = LabSettings(name="x", nodes=5, environment={"A": "b"})
    assert decode_settings(encode_settings(settings)) == settings
