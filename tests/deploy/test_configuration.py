# SPDX-License-Identifier: Apache-2.0
"""What is deployed is what the lab runs: the same commands, and files that the services' own loaders accept."""

from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

import pytest
import yaml

from pointsman_lab.settings import LabSettings
from pointsman_lab.statedir import StateDirectory
from pointsman_lab.supervise.services import ServicePlan, Site, enforcer_plan, planner_plan, watcher_plan
from support.deployed_settings import deployed_settings, settings_in
from support.manifests import (
    COMPONENTS,
    SERVICES,
    Manifest,
    compose,
    config_layers,
    container_of,
    of_kind,
    pod_of,
    require_kubectl,
    workloads,
)

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
def test_a_configuration_is_accepted_by_the_services_own_loader_and_is_no_plaintext(
    service: str, rendered: str
) -> None:
    assert deployed_settings(rendered, service)["security"]["insecure"] is False


@pytest.mark.parametrize("service", SERVICES)
def test_every_layer_is_laid_over_the_base(service: str, manifests: tuple[Manifest, ...]) -> None:
    names = list(config_layers(manifests, service))
    assert names[0] == "10-base.yaml"
    assert all(name[2] == "-" and name.endswith(".yaml") for name in names), names


@pytest.mark.parametrize("service", SERVICES)
def test_the_command_is_the_one_the_lab_runs(service: str, manifests: tuple[Manifest, ...]) -> None:
    container = container_of(workloads(manifests)[service])
    [script] = entry_points(group="console_scripts", name=container["command"][0])
    _, *lab_arguments = lab_plans()[service].argv
    # `python -m package` runs the main function of package.__main__, and so does the script.
    assert lab_arguments[:2] == ["-m", script.value.removesuffix(".__main__:main")]
    [mount] = [each["mountPath"] for each in container["volumeMounts"] if each["name"] == "config"]
    assert container["args"] == [lab_arguments[2], mount]
    assert len(lab_arguments) == 4


@pytest.mark.parametrize("service", SERVICES)
def test_the_base_sets_what_the_labs_file_sets(service: str, manifests: tuple[Manifest, ...]) -> None:
    base = yaml.safe_load(config_layers(manifests, service)["10-base.yaml"])
    assert set(lab_plans()[service].config) - ONLY_IN_THE_LAB[service] <= set(base)


def test_the_ports_in_the_files_are_the_ports_of_the_pods_and_services(
    rendered: str, manifests: tuple[Manifest, ...]
) -> None:
    watcher, planner, enforcer = (deployed_settings(rendered, service) for service in SERVICES)
    addresses = {
        ("watcher", "grpc"): watcher["listenAddress"],
        ("watcher", "metrics"): watcher["metricsBindAddress"],
        ("planner", "grpc"): planner["listenAddress"],
        ("planner", "grpc-token"): planner["access"]["tokens"]["listenAddress"],
        ("planner", "metrics"): planner["metricsBindAddress"],
        ("enforcer", "healthz"): enforcer["healthzBindAddress"],
        ("enforcer", "metrics"): enforcer["metricsBindAddress"],
    }
    declared = {
        (service, port["name"]): port["containerPort"]
        for service in SERVICES
        for port in container_of(workloads(manifests)[service])["ports"]
    }
    assert declared == {place: int(address.rpartition(":")[2]) for place, address in addresses.items()}
    assert all(
        address.startswith("0.0.0.0:") for place, address in addresses.items() if place != ("enforcer", "metrics")
    )
    for service in of_kind(manifests, "Service"):
        name = service["metadata"]["labels"]["app.kubernetes.io/component"]
        for port in service["spec"]["ports"]:
            assert declared.get((name, port["targetPort"]), port["port"]) == port["port"]


def test_each_finds_the_next(rendered: str) -> None:
    watcher, planner, enforcer = (deployed_settings(rendered, service) for service in SERVICES)
    port = watcher["listenAddress"].rpartition(":")[2]
    assert planner["watcherAddresses"] == [
        f"127.0.0.1:{port}",
        f"pointsman-watcher.pointsman-system.svc.cluster.local:{port}",
    ]
    tokens = planner["access"]["tokens"]["listenAddress"].rpartition(":")[2]
    assert enforcer["plannerAddresses"]
    assert {address.rpartition(":")[2] for address in enforcer["plannerAddresses"]} == {tokens}
    # Enforcers can use no address that they have yet to program, and the nodes' resolver knows no name of the cluster.
    assert not any(".svc" in address for address in enforcer["plannerAddresses"])


def test_the_state_directory_is_the_one_that_outlives_the_pod(rendered: str, manifests: tuple[Manifest, ...]) -> None:
    pod = pod_of(workloads(manifests)["enforcer"])
    [mount] = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "state"]
    [kept] = [volume["hostPath"] for volume in pod["volumes"] if volume["name"] == "state"]
    assert deployed_settings(rendered, "enforcer")["stateDirectory"] == mount["mountPath"] == kept["path"]


@pytest.mark.parametrize("mode", ["nftables", "iptables", "ipvs", "userspace"])
def test_components_can_be_combined_at_will(mode: str) -> None:
    require_kubectl()
    chosen = [each for each in COMPONENTS if "/mode-" not in each or each == f"components/mode-{mode}"]
    manifests = compose("base", *chosen)
    settings = {service: settings_in(manifests, service) for service in SERVICES}
    assert settings["enforcer"]["mode"] == mode
    assert settings["planner"]["access"]["events"] is True
    assert settings["planner"]["access"]["accessReview"] is True
