# SPDX-License-Identifier: Apache-2.0
"""What images are made of: rules for their Dockerfiles, and each one's exact Python environment, built and started.

No container engine is needed: all that an image is beside its base layers is here.
"""

import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest

from support.image import PLACE, instructions, pinned_uv, variables
from support.manifests import ROOT, SERVICES, container_of, render, require_kubectl, workloads

FOREIGN: Final = {
    "watcher": {"redis", "pyroute2", "typer", "rich", "pytest"},
    "planner": {"kubernetes", "pyroute2", "typer", "rich", "pytest"},
    "enforcer": {"kubernetes", "redis", "typer", "rich", "pytest", "aiohttp"},
}
PACKAGES: Final = {
    "watcher": set[str](),
    "planner": set[str](),
    "enforcer": {"nftables", "iptables", "ipset", "iproute2"},
}
SIZE_MAX_MIB: Final = {"watcher": 220, "planner": 110, "enforcer": 110}
"""Of the environment, byte code included. What others weigh is in the lock file: a new dependency should be noticed."""
LOCK: Final[dict[str, Any]] = tomllib.loads((ROOT / "uv.lock").read_text())


def values(service: str, name: str, *, stage: int | None = None) -> list[str]:
    found = instructions(service)
    return [each.value for each in found if each.name == name and stage in (None, each.stage)]


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_is_built_in_two_stages_from_one_exact_version(service: str) -> None:
    bases = [value.split()[0] for value in values(service, "FROM")]
    assert len(bases) == 2
    assert len(set(bases)) == 1, "byte code and binaries are for the interpreter that runs them"
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", bases[0])
    assert [value for value in values(service, "RUN") if value.startswith("pip install")] == [
        f"pip install --no-cache-dir uv=={pinned_uv()}"
    ]
    assert values(service, "ADD") == []


@pytest.mark.parametrize("service", SERVICES)
def test_nothing_gets_into_an_image_but_this_service_and_the_lock_files_closure_of_it(service: str) -> None:
    copied = {name for value in values(service, "COPY", stage=0) for name in shlex.split(value)[:-1]}
    folders = ("proto", "services/chassis", f"services/{service}")
    projects = {f"{folder}/pyproject.toml" for folder in folders}
    assert copied == {"pyproject.toml", "uv.lock", *projects, *folders}
    syncs = [value for value in values(service, "RUN", stage=0) if value.startswith("uv ")]
    options = f"uv sync --package pointsman-{service} --no-dev"
    assert syncs == [f"{options} --no-install-workspace --frozen", f"{options} --no-editable --frozen"]
    assert values(service, "COPY", stage=1) == [f"--from=build {PLACE} {PLACE}"]


@pytest.mark.parametrize("service", SERVICES)
def test_dependencies_are_a_layer_that_our_own_code_does_not_change(service: str) -> None:
    order = [(each.name, each.value) for each in instructions(service) if each.stage == 0]
    first_sync = next(index for index, (name, value) in enumerate(order) if name == "RUN" and value.startswith("uv "))
    before = [value for name, value in order[:first_sync] if name == "COPY"]
    assert all(each.endswith(("pyproject.toml", "uv.lock")) for value in before for each in shlex.split(value)[:-1])


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_starts_the_service_and_only_the_enforcer_as_root(service: str) -> None:
    *_, last = instructions(service)
    assert (last.name, last.value) == ("ENTRYPOINT", f'["pointsman-{service}"]')
    assert values(service, "USER") == (["0:0"] if service == "enforcer" else ["65532:65532"])
    assert values(service, "EXPOSE") == values(service, "VOLUME") == values(service, "CMD") == []
    labels = " ".join(values(service, "LABEL"))
    for name in ("title", "description", "version", "licenses"):
        assert f"org.opencontainers.image.{name}=" in labels


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_holds_no_secret_and_fetches_nothing_by_itself(service: str) -> None:
    for each in instructions(service):
        assert not re.search(r"(?i)password|secret|token|api_?key|\bcurl\b|\bwget\b|https?://", each.value), each
    for value in values(service, "RUN", stage=1):
        installed = re.search(r"apt-get install -q -y --no-install-recommends (.+?) &&", value)
        assert installed is not None
        assert set(installed[1].split()) == PACKAGES[service]
        assert value.endswith("rm -rf /var/lib/apt/lists/*")
    assert bool(values(service, "RUN", stage=1)) is bool(PACKAGES[service])


def test_the_programs_that_modes_run_are_in_the_enforcers_image() -> None:
    programs = {"nft", "iptables-legacy-restore", "ip6tables-nft-save", "ipset", "ip"}
    owners = set()
    for program in programs:
        found = subprocess.run(["dpkg", "-S", f"*/{program}"], capture_output=True, text=True, check=True).stdout
        owners |= {line.split(":")[0] for line in found.splitlines() if re.search(rf"/s?bin/{program}$", line)}
    assert owners == PACKAGES["enforcer"]


@pytest.mark.parametrize("service", SERVICES)
def test_every_locked_dependency_is_there_for_both_architectures(service: str) -> None:
    """No compiler is in the build stage: a dependency without a wheel would end the build on one of them."""
    packages = {each["name"]: each for each in LOCK["package"]}
    for name in closure(f"pointsman-{service}", packages):
        wheels = [wheel["url"].rpartition("/")[2] for wheel in packages[name].get("wheels", ())]
        if any(wheel.endswith("-any.whl") for wheel in wheels):
            continue
        for architecture in ("x86_64", "aarch64"):
            fits = rf"-(cp311-cp311|cp3\d+-abi3|py3-none)-manylinux\S*_{architecture}\.whl$"
            assert any(re.search(fits, wheel) for wheel in wheels), f"{name} has no wheel for {architecture}"


def closure(package: str, packages: dict[str, Any]) -> set[str]:
    """Names of what others wrote that a member needs, extras included, on any platform."""
    found: set[str] = set()
    pending = [(package, frozenset[str]())]
    seen = set()
    while pending:
        name, extras = pending.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        locked = packages[name]
        if "registry" in locked["source"]:
            found.add(name)
        wanted = list(locked.get("dependencies", ()))
        for extra in extras:
            wanted += locked.get("optional-dependencies", {}).get(extra, ())
        linux = [each for each in wanted if "win32" not in each.get("marker", "")]
        pending += [(each["name"], frozenset(each.get("extra", ()))) for each in linux]
    return found


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.timeout(300)
def test_the_environment_holds_what_the_service_needs_and_nothing_of_others(
    service: str, environments: dict[str, Path], tmp_path: Path
) -> None:
    environment = environments[service]
    started = subprocess.run(
        [environment / "bin" / f"pointsman-{service}", "--version"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": variables(service)["HOME"]},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert started.returncode == 0, started.stderr
    assert re.search(r"\d+\.\d+\.\d+", started.stdout)
    [packages] = environment.glob("lib/python*/site-packages")
    assert {path.name for path in packages.iterdir()} & FOREIGN[service] == set()
    ours = {path.name for path in packages.glob("pointsman_*") if not path.name.endswith(".dist-info")}
    assert ours == {"pointsman_chassis", "pointsman_model", f"pointsman_{service}"}
    size = sum(path.lstat().st_size for path in environment.rglob("*")) / (1 << 20)
    assert size < SIZE_MAX_MIB[service], f"{size:.0f} MiB"


def test_versions_of_images_labels_and_packages_agree() -> None:
    require_kubectl()
    for service in SERVICES:
        project = tomllib.loads((ROOT / "services" / service / "pyproject.toml").read_text())["project"]
        assert f"VERSION={project['version']}" in values(service, "ARG", stage=1)
        image = container_of(workloads(render("base"))[service])["image"]
        assert image == f"pointsman-{service}:{project['version']}"
