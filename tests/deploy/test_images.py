# SPDX-License-Identifier: Apache-2.0
"""Each image's exact Python environment, built and started: everything an image is but its base layer."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from support.manifests import ROOT

SERVICES: Final = ("watcher", "planner", "enforcer")
FOREIGN: Final = {
    "watcher": {"redis", "pyroute2", "typer", "rich", "pytest"},
    "planner": {"kubernetes", "pyroute2", "typer", "rich", "pytest"},
    "enforcer": {"kubernetes", "redis", "typer", "rich", "pytest", "aiohttp"},
}


def instructions(service: str) -> list[str]:
    """The Dockerfile's instructions, comments removed and continued lines joined."""
    text = (ROOT / "services" / service / "Dockerfile").read_text()
    joined = re.sub(r"\\\n\s*", "", text)
    return [line for line in joined.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_is_built_from_named_versions(service: str) -> None:
    bases = [line.split()[1] for line in instructions(service) if line.startswith("FROM")]
    assert bases == ["python:3.11-slim-bookworm"] * 2
    assert any(re.fullmatch(r"RUN pip install .*uv==[\d.]+", line) for line in instructions(service))


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_starts_the_service_and_only_the_enforcer_as_root(service: str) -> None:
    lines = instructions(service)
    assert lines[-1] == f'ENTRYPOINT ["pointsman-{service}"]'
    assert ("USER 65532:65532" in lines) is (service != "enforcer")


def find_uv() -> str:
    uv = shutil.which("uv", path=ROOT / "build" / "tools" / "bin") or shutil.which("uv")
    if uv is None:
        pytest.skip("uv is neither in build/tools (run `make setup`) nor on the PATH")
    return uv


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.timeout(300)
def test_the_locked_closure_of_a_service_is_enough_to_start_it(service: str, tmp_path: Path) -> None:
    uv = find_uv()
    [sync] = [line.removeprefix("RUN uv ") for line in instructions(service) if line.startswith("RUN uv sync")]
    assert sync == f"sync --package pointsman-{service} --no-dev --no-editable --frozen"
    environment = tmp_path / "environment"
    subprocess.run(
        [uv, *sync.split(), "--quiet", *_rebuilt("proto", "chassis", service)],
        cwd=ROOT,
        env={
            **os.environ,
            "UV_PROJECT_ENVIRONMENT": str(environment),
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_SYSTEM_CERTS": "true",
        },
        check=True,
        timeout=240,
    )
    started = subprocess.run(
        [environment / "bin" / f"pointsman-{service}", "--help"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert started.returncode == 0, started.stderr
    assert "--config" in started.stdout
    [packages] = environment.glob("lib/python*/site-packages")
    assert {path.name for path in packages.iterdir()} & FOREIGN[service] == set()


def _rebuilt(*members: str) -> list[str]:
    """Flags that build our own wheels from the tree as it is now; uv reuses them while pyproject.toml is unchanged."""
    return [f"--refresh-package=pointsman-{member}" for member in members]
