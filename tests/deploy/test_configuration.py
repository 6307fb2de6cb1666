# SPDX-License-Identifier: Apache-2.0
"""What is deployed is what the lab runs: the same commands, and files that the services' own loaders accept."""

from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest
import yaml

import pointsman_enforcer.settings
import pointsman_planner.settings
import pointsman_watcher.settings
from pointsman_chassis.settings import Settings, parse_settings, settings_as_data
from pointsman_lab.settings import LabSettings
from pointsman_lab.statedir import StateDirectory
from pointsman_lab.supervise.services import ServicePlan, Site, enforcer_plan, planner_plan, watcher_plan
from support.manifests import Manifest, config_files, pod_of, workloads

SERVICES: Final = ("watcher", "planner", "enforcer")
SETTINGS: Final[dict[str, tuple[type[Settings], ModuleType]]] = {
    "watcher": (pointsman_watcher.settings.WatcherSettings, pointsman_watcher.settings),
    "planner": (pointsman_planner.settings.PlannerSettings, pointsman_planner.settings),
    "enforcer": (pointsman_enforcer.settings.EnforcerConfiguration, pointsman_enforcer.settings),
}
# What a pod is told by the platform and the lab's processes by their files.
ONLY_IN_THE_LAB: Final = {
    "watcher": {"kubernetes"},
    "planner": {"plannerID"},
    "enforcer": {"hostnameOverride", "clusterCIDR"},
}


def lab_plans() -> dict[str, ServicePlan]:
    """How the lab starts each service."""
    site = Site(settings=LabSettings(), state=StateDirectory(Path("/nowhere"), "sample"))
    topology = site.topology
    return {
        "watcher": watcher_plan(site, topology.watchers[0]),
        "planner": planner_plan(site, topology.planners[0]),
        "enforcer": enforcer_plan(site, topology.nodes[0]),
    }


@pytest.mark.parametrize("service", SERVICES)
def test_a_configuration_file_is_accepted_by_the_services_own_loader(
    service: str, manifests: tuple[Manifest, ...]
) -> None:
    settings_type, module = SETTINGS[service]
    text = config_files(manifests)[f"{service}.yaml"]
    settings = parse_settings(text, settings_type, module.KIND, source=f"{service}.yaml")
    assert settings_as_data(settings)["security"]["insecure"] is False


@pytest.mark.parametrize("service", SERVICES)
def test_the_command_is_the_one_the_lab_runs(service: str, manifests: tuple[Manifest, ...]) -> None:
    container = pod_of(workloads(manifests)[service])["containers"][0]
    [script] = entry_points(group="console_scripts", name=container["command"][0])
    _, *lab_arguments = lab_plans()[service].argv
    # `python -m package` runs the main function of package.__main__, and so does the script.
    assert lab_arguments[:2] == ["-m", script.value.removesuffix(".__main__:main")]
    assert container["args"] == [lab_arguments[2], f"/etc/pointsman/{service}.yaml"]
    assert len(lab_arguments) == 4


@pytest.mark.parametrize("service", SERVICES)
def test_the_file_sets_what_the_labs_file_sets(service: str, manifests: tuple[Manifest, ...]) -> None:
    deployed = yaml.safe_load(config_files(manifests)[f"{service}.yaml"])
    assert set(deployed) == set(lab_plans()[service].config) - ONLY_IN_THE_LAB[service]


@pytest.mark.parametrize("service", SERVICES)
def test_the_file_named_in_the_command_is_mounted(service: str, manifests: tuple[Manifest, ...]) -> None:
    pod = pod_of(workloads(manifests)[service])
    [mounted] = [volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume]
    [config] = [
        manifest
        for manifest in manifests
        if manifest["kind"] == "ConfigMap" and manifest["metadata"]["name"] == mounted
    ]
    assert list(config["data"]) == [f"{service}.yaml"]


def test_the_ports_in_the_files_are_the_ports_of_the_pods(manifests: tuple[Manifest, ...]) -> None:
    files = {name: yaml.safe_load(text) for name, text in config_files(manifests).items()}
    for service in ("watcher", "planner"):
        container = pod_of(workloads(manifests)[service])["containers"][0]
        port = int(files[f"{service}.yaml"]["listenAddress"].rpartition(":")[2])
        assert {"name": "grpc", "containerPort": port} in container["ports"]
    assert files["planner.yaml"]["watcherAddresses"] == ["127.0.0.1:7443"]
    assert files["watcher.yaml"]["listenAddress"] == "0.0.0.0:7443"
    [planner] = files["enforcer.yaml"]["plannerAddresses"]
    assert planner.endswith(":7445")
    assert files["planner.yaml"]["listenAddress"] == "0.0.0.0:7444"
    assert files["planner.yaml"]["access"]["tokens"]["listenAddress"] == "0.0.0.0:7445"


def test_the_state_directory_is_the_one_that_outlives_the_pod(manifests: tuple[Manifest, ...]) -> None:
    pod = pod_of(workloads(manifests)["enforcer"])
    [kept] = [volume["name"] for volume in pod["volumes"] if "hostPath" in volume]
    [mount] = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == kept]
    assert yaml.safe_load(config_files(manifests)["enforcer.yaml"])["stateDirectory"] == mount["mountPath"]
