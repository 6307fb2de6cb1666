# SPDX-License-Identifier: Apache-2.0
"""`kubectl apply` of what is rendered, against the lab's API server: all is taken, and a second time changes nothing.

The server knows no custom resources; those of cert-manager and of the Prometheus operator are left out.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import yaml

from pointsman_lab.apiserver import ApiServer, new_cluster
from support.crd_schemas import CRD_SCHEMAS
from support.manifests import OVERLAYS, compose, render, require_kubectl

DEADLINE_SECONDS = 60.0


@pytest_asyncio.fixture
async def server() -> AsyncIterator[ApiServer]:
    made = ApiServer(new_cluster())
    await made.start()
    yield made
    await made.stop()


async def kubectl(server: ApiServer, home: Path, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        shutil.which("kubectl") or "kubectl",
        f"--server={server.url}",
        f"--cache-dir={home}",
        *arguments,
        env={"PATH": "/usr/bin:/bin", "HOME": str(home)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(DEADLINE_SECONDS):
        printed, error = await process.communicate()
    assert process.returncode == 0, error.decode()
    return printed.decode()


def changed(lines: list[str]) -> list[str]:
    """Kinds of what is not unchanged. kubectl says of disruption budgets that they are configured, whatever is applied:
    their selector is always replaced."""
    kinds = (line.partition("/")[0] for line in lines if not line.endswith("unchanged"))
    return sorted(kind for kind in kinds if kind != "poddisruptionbudget.policy")


@pytest.mark.parametrize("name", OVERLAYS)
async def test_an_overlay_is_applied_found_unchanged_changed_and_deleted(
    name: str, server: ApiServer, tmp_path: Path
) -> None:
    require_kubectl()
    manifests = [each for each in render(name) if (each["apiVersion"], each["kind"]) not in CRD_SCHEMAS]
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump_all(manifests))
    applied = (await kubectl(server, tmp_path, "apply", "-f", str(file))).splitlines()
    assert len(applied) == len(manifests)
    assert all(line.endswith("created") for line in applied), applied
    again = (await kubectl(server, tmp_path, "apply", "-f", str(file))).splitlines()
    assert changed(again) == []
    found = await kubectl(server, tmp_path, "get", "-f", str(file), "-o", "name")
    assert len(found.splitlines()) == len(manifests)
    await kubectl(server, tmp_path, "delete", "-f", str(file), "--wait=false", "--ignore-not-found")
    found = await kubectl(server, tmp_path, "get", "-f", str(file), "-o", "name", "--ignore-not-found")
    assert found == ""


async def test_a_component_that_is_added_changes_only_what_it_is_about(server: ApiServer, tmp_path: Path) -> None:
    require_kubectl()
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump_all(render("base")))
    await kubectl(server, tmp_path, "apply", "-f", str(file))
    file.write_text(yaml.safe_dump_all(compose("base", "components/events")))
    lines = (await kubectl(server, tmp_path, "apply", "-f", str(file))).splitlines()
    assert changed(lines) == [
        "clusterrole.rbac.authorization.k8s.io",
        "clusterrolebinding.rbac.authorization.k8s.io",
        "configmap",
        "deployment.apps",
    ], "rights, a planner's configuration under a new name, and the planners that read it"
