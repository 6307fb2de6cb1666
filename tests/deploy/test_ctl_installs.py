# SPDX-License-Identifier: Apache-2.0
"""`pointsmanctl` by itself: the lock file's closure of it starts, and brings nothing of the services along."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from support.image import find_uv
from support.manifests import ROOT

FOREIGN = {"kubernetes", "redis", "pyroute2", "aiohttp", "typer", "rich", "pytest"}


@pytest.mark.timeout(300)
def test_the_commands_own_environment_starts_under_both_names(tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    # Away from the workspace's own environment, by the locked versions only.
    subprocess.run(
        [find_uv(), "sync", "--package", "pointsman-ctl", "--no-dev", "--no-editable", "--frozen", "--quiet"],
        cwd=ROOT,
        env=os.environ | {"UV_PROJECT_ENVIRONMENT": str(environment), "UV_PYTHON_DOWNLOADS": "never"},
        check=True,
    )
    for name, usage in (("pointsmanctl", "Usage: pointsmanctl "), ("kubectl-pointsman", "Usage: kubectl pointsman ")):
        command = [environment / "bin" / name, "--help"]
        started = subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True)
        assert started.stdout.startswith(usage)
    checked = subprocess.run(
        [environment / "bin" / "pointsmanctl", "check", "--pre", "--skip", "cluster", "--local"],
        env={"PATH": "/nonexistent", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "nft is not installed" in checked.stdout
    assert "Traceback" not in checked.stderr
    [packages] = environment.glob("lib/python*/site-packages")
    assert {path.name for path in packages.iterdir()} & FOREIGN == set()
    ours = {path.name for path in packages.glob("pointsman_*") if not path.name.endswith(".dist-info")}
    assert ours == {"pointsman_chassis", "pointsman_model", "pointsman_ctl"}
