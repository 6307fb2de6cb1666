# SPDX-License-Identifier: Apache-2.0
"""The image of a service without a container engine: its Dockerfile read, and its environment built as it says."""

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from dockerfile_parse import DockerfileParser

from support.manifests import ROOT

PLACE: Final = "/opt/pointsman"
"""Where the environment stands in the image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One instruction of a Dockerfile, continued lines joined; `stage` counts the FROMs before it, from 0."""

    name: str
    value: str
    stage: int


def instructions(service: str) -> tuple[Instruction, ...]:
    """A service's Dockerfile, comments left out."""
    path = str(ROOT / "services" / service / "Dockerfile")
    found: list[Instruction] = []
    stage = -1
    for each in DockerfileParser(path=path).structure:
        stage += each["instruction"] == "FROM"
        if each["instruction"] != "COMMENT":
            found.append(Instruction(name=each["instruction"], value=each["value"], stage=stage))
    return tuple(found)


def variables(service: str) -> dict[str, str]:
    """What the last stage sets; `$NAME` is what it was before."""
    settings = (each for each in instructions(service) if each.stage == 1 and each.name == "ENV")
    return dict(pair.split("=", 1) for each in settings for pair in shlex.split(each.value))


def build_environment(service: str, directory: Path) -> Path:
    """Do what the first stage says in an empty folder, uv's commands literally; the environment that results."""
    source, environment = directory / "src", directory / "environment"
    source.mkdir(parents=True)
    uv = find_uv()
    for each in instructions(service):
        if each.stage == 0 and each.name == "COPY":
            _copy(shlex.split(each.value), source)
        elif each.stage == 0 and each.name == "RUN" and each.value.startswith("uv "):
            wanted = {"UV_PROJECT_ENVIRONMENT": str(environment), "UV_PYTHON_DOWNLOADS": "never"}
            command = [uv, *shlex.split(each.value)[1:], "--quiet"]
            subprocess.run(
                command, cwd=source, env={**os.environ, **wanted, "UV_SYSTEM_CERTS": "true"}, check=True, timeout=240
            )
    return environment


def find_uv() -> str:
    """The pinned uv, else the one on the PATH; without either the test is skipped, saying so."""
    uv = shutil.which("uv", path=ROOT / "build" / "tools" / "bin") or shutil.which("uv")
    if uv is None:
        pytest.skip("uv is neither in build/tools (run `make setup`) nor on the PATH")
    return uv


def pinned_uv() -> str:
    """The version that setup installs."""
    [version] = re.findall(r"^uv_version=(\S+)$", (ROOT / "scripts/setup.sh").read_text(), flags=re.MULTILINE)
    return str(version)


def _copy(arguments: list[str], target: Path) -> None:
    *sources, destination = arguments
    for name in sources:
        origin = ROOT / name
        if origin.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(origin, target / destination, dirs_exist_ok=True, ignore=ignored)
        else:
            (target / destination).mkdir(parents=True, exist_ok=True)
            shutil.copy(origin, target / destination)
