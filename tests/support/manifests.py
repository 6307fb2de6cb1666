# SPDX-License-Identifier: Apache-2.0
"""Rendering deploy/ with a stock kubectl, and reading the result."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
DEPLOY: Final = ROOT / "deploy"
OVERLAYS: Final = ("overlays/kind", "overlays/dev", "overlays/production")
CLEANER: Final = "components/uninstall"
"""Turns enforcers into what removes their work: the one component that runs something else."""
COMPONENTS: Final = tuple(
    f"components/{path.parent.name}"
    for path in sorted(DEPLOY.glob("components/*/kustomization.yaml"))
    if path.parent.name != "uninstall"
)
RENDERED: Final = ("base", *OVERLAYS, *COMPONENTS)
"""Everything that runs Pointsman; a component stands for the base with it alone."""
SERVICES: Final = ("watcher", "planner", "enforcer")
WORKLOADS: Final = ("Deployment", "DaemonSet", "StatefulSet")

Manifest = dict[str, Any]


def require_kubectl() -> None:
    """Skip, saying why, where kubectl is missing or too old for these files (its kustomize must be 4 or newer)."""
    if problem := _problem_of_kubectl():
        pytest.skip(problem)


@cache
def _problem_of_kubectl() -> str:
    if shutil.which("kubectl") is None:
        return "kubectl is not installed, so deploy/ cannot be rendered"
    version = subprocess.run(["kubectl", "version", "--client"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"Kustomize Version: v(\d+)", version)
    if match is None or int(match[1]) < 4:
        return f"kubectl is too old to render deploy/: {version.strip() or 'it reports no kustomize version'}"
    return ""


@cache
def render(name: str) -> tuple[Manifest, ...]:
    """The manifests of one of RENDERED."""
    if not name.startswith("components/"):
        return kustomize(DEPLOY / name)
    return compose("base", name)


@cache
def compose(base: str, *components: str) -> tuple[Manifest, ...]:
    """The manifests of an overlay that consists of these folders of deploy/."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory).resolve()
        document = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [os.path.relpath(DEPLOY / base, folder)],
            "components": [os.path.relpath(DEPLOY / each, folder) for each in components],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(document))
        return kustomize(folder)


def kustomize(folder: Path) -> tuple[Manifest, ...]:
    """The manifests that `kubectl kustomize` prints for a folder."""
    command = ["kubectl", "kustomize", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr
    return tuple(yaml.load_all(result.stdout, Loader=yaml.CSafeLoader))


def of_kind(manifests: tuple[Manifest, ...], *kinds: str) -> Iterator[Manifest]:
    """Those of the given kinds."""
    return (manifest for manifest in manifests if manifest["kind"] in kinds)


def workloads(manifests: tuple[Manifest, ...]) -> dict[str, Manifest]:
    """Component name -> whatever makes its pods."""
    found = of_kind(manifests, *WORKLOADS)
    return {manifest["metadata"]["labels"]["app.kubernetes.io/component"]: manifest for manifest in found}


def pod_of(workload: Manifest) -> Manifest:
    """The pod spec of a workload."""
    spec: Manifest = workload["spec"]["template"]["spec"]
    return spec


def container_of(workload: Manifest) -> Manifest:
    """The one container of a workload."""
    [container] = pod_of(workload)["containers"]
    found: Manifest = container
    return found


def config_layers(manifests: tuple[Manifest, ...], service: str) -> dict[str, str]:
    """File name -> content of the directory that a service is configured by, in the order in which it reads them."""
    pod = pod_of(workloads(manifests)[service])
    [mounted] = [volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume]
    [config] = [each for each in of_kind(manifests, "ConfigMap") if each["metadata"]["name"] == mounted]
    return dict(sorted(config["data"].items()))
