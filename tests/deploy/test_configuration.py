# SPDX-License-Identifier: Apache-2.0
"""What is deployed is what the lab runs: the same commands, and files that the services' own loaders accept."""

import importlib
from importlib.metadata import entry_points
from typing import Any, Final

import pytest
import yaml

from pointsman_chassis.settings import parse_settings
from support.manifests import Manifest, config_files, pod_of, workloads

SERVICES: Final = ("watcher", "planner", "enforcer")


def settings_of(service: str, manifests: tuple[Manifest, ...]) -> Any:
    """The rendered configuration file, as the service itself would read it."""
    module = importlib.import_module(f"pointsman_{service}.settings")
    settings_type = getattr(module, f"{service.capitalize()}Settings")
    text = config_files(manifests)[f"{service}.yaml"]
    return parse_settings(text, settings_type, module.KIND, source=f"{service}.yaml")


@pytest.mark.parametrize("service", SERVICES)
def test_a_configuration_file_is_accepted_by_the_services_own_loader(
    service: str, manifests: tuple[Manifest, ...]
) -> None:
    assert settings_of(service, manifests).security.insecure is True


@pytest.mark.parametrize("service", SERVICES)
def test_the_command_is_the_one_the_lab_runs(service: str, manifests: tuple[Manifest, ...]) -> None:
    container = pod_of(workloads(manifests)[service])["containers"][0]
    [script] = entry_points(group="console_scripts", name=container["command"][0])
    # The lab runs `python -m pointsman_<service> --config FILE`; the script is that module's main function.
    assert script.value == f"pointsman_{service}.__main__:main"
    assert container["args"] == ["--config", f"/etc/pointsman/{service}.yaml"]


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
        assert container["readinessProbe"]["grpc"]["port"] == port
        assert {"name": "grpc", "containerPort": port} in container["ports"]
    assert files["planner.yaml"]["watcherAddresses"] == ["127.0.0.1:7443"]
    assert files["watcher.yaml"]["listenAddress"] == "0.0.0.0:7443"
    [planner] = files["enforcer.yaml"]["plannerAddresses"]
    assert planner.endswith(":7444")
    assert files["planner.yaml"]["listenAddress"] == "0.0.0.0:7444"


def test_the_state_directory_is_the_one_that_outlives_the_pod(manifests: tuple[Manifest, ...]) -> None:
    pod = pod_of(workloads(manifests)["enforcer"])
    [kept] = [volume["name"] for volume in pod["volumes"] if "hostPath" in volume]
    [mount] = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == kept]
    assert yaml.safe_load(config_files(manifests)["enforcer.yaml"])["stateDirectory"] == mount["mountPath"]
