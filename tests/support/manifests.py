# SPDX-License-Identifier: Apache-2.0
"""Rendering deploy/ with a stock kubectl, and reading the result."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
RENDERED: Final = ("base", "overlays/dev")

Manifest = dict[str, Any]


def require_kubectl() -> None:
    """Skip, saying why, where kubectl is missing or too old for these files (its kustomize must be 4 or newer)."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed, so deploy/ cannot be rendered")
    version = subprocess.run(["kubectl", "version", "--client"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"Kustomize Version: v(\d+)", version)
    if match is None or int(match[1]) < 4:
        pytest.skip(f"kubectl is too old to render deploy/: {version.strip() or 'it reports no kustomize version'}")


@cache
def render(folder: str) -> tuple[Manifest, ...]:
    """The manifests that `kubectl kustomize deploy/<folder>` prints."""
    command = ["kubectl", "kustomize", str(ROOT / "deploy" / folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr
    return tuple(yaml.safe_load_all(result.stdout))


def of_kind(manifests: tuple[Manifest, ...], *kinds: str) -> Iterator[Manifest]:
    """Those of the given kinds."""
    return (manifest for manifest in manifests if manifest["kind"] in kinds)


def workloads(manifests: tuple[Manifest, ...]) -> dict[str, Manifest]:
    """Component name -> whatever makes its pods."""
    found = of_kind(manifests, "Deployment", "DaemonSet", "StatefulSet")
    return {manifest["metadata"]["labels"]["app.kubernetes.io/component"]: manifest for manifest in found}


def pod_of(workload: Manifest) -> Manifest:
    """The pod spec of a workload."""
    spec: Manifest = workload["spec"]["template"]["spec"]
    return spec


def config_files(manifests: tuple[Manifest, ...]) -> dict[str, str]:
    """File name -> content, of every ConfigMap."""
    return {name: text for manifest in of_kind(manifests, "ConfigMap") for name, text in manifest["data"].items()}
