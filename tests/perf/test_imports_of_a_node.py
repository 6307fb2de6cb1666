# SPDX-License-Identifier: Apache-2.0
"""Guard of the footprint on a node: what is imported until the kernel has the plan, and what is there in the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pointsman_enforcer.dataplane.modes.not_yet import NotYet
from pointsman_model.names import parse_prefix
from pointsman_model.plan import NodeFacts
from support.enforcer_plans import FACTS, key, numbered
from support.enforcer_process import EnforcerNode
from support.netns import NetNs

pytestmark = pytest.mark.root
TESTS = Path(__file__).parents[1]
DEADLINE_SECONDS = 30.0
DATAPLANE = "pointsman_enforcer.dataplane"
MODES: dict[str, tuple[set[str], dict[str, object]]] = {
    "nftables": ({"nftables.backend"}, {"mode": "nftables"}),
    "iptables-legacy": ({"iptables.backend"}, {"mode": "iptables", "iptables": {"variant": "legacy"}}),
    "iptables-nft": ({"iptables.backend"}, {"mode": "iptables", "iptables": {"variant": "nft"}}),
    "userspace": ({"userspace.backend", "nftables.backend"}, {"mode": "userspace"}),
    "userspace-without-rules": ({"userspace.rootless"}, {"mode": "userspace", "userspace": {"redirect": "none"}}),
}
"""The dataplanes that the mode is made of (the proxy's redirecting rules are nftables'), and the configuration."""
BACKENDS = {"ipvs.backend"}.union(*(own for own, _ in MODES.values()))
OF_OTHERS = (
    "kubernetes",
    "redis",
    "aiohttp",
    "hypothesis",
    "pytest",
    "numpy",
    "opentelemetry",
    "pyroute2",
    "matplotlib",
)
"""What other services, tools and tests need; tracing is off here, and the kernel is spoken to directly."""
LATER = ("grpc", "pointsman_enforcer.feed.connect", "pointsman_enforcer.dataplane.modes.handover")
"""What is needed only when the kernel has the plan."""


class Imported(NamedTuple):
    """Names of modules."""

    at_first_sync: frozenset[str]
    at_end: frozenset[str]


def found(modules: frozenset[str], packages: tuple[str, ...]) -> list[str]:
    """Those of the modules that belong to one of the packages."""
    return sorted(name for name in modules if any(f"{name}.".startswith(f"{package}.") for package in packages))


@pytest.fixture(params=MODES, scope="module")
def mode(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="module")
def imported(mode: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Imported]:
    directory = tmp_path_factory.mktemp(mode)
    facts = NodeFacts(name="node-1", addresses=FACTS.addresses, service_cidrs=(parse_prefix("172.30.0.0/16"),))
    with NetNs("imports") as namespace:
        node = EnforcerNode(namespace, directory, facts, clusterCIDR="10.0.0.0/8", **MODES[mode][1])
        node.write_plan({key(1): numbered(1)})
        target = directory / "modules"
        command = (sys.executable, "-m", "support.imported_main", str(target), "--config", str(node.config_file))
        with (directory / "log").open("wb") as log:
            process = namespace.popen(*command, env={**os.environ, "PYTHONPATH": str(TESTS)}, stderr=log)
        try:
            wait_taken_over(node, process)
            process.terminate()
            process.wait(DEADLINE_SECONDS)
        finally:
            process.kill()
        before, _, after = target.read_text().partition("\n\n")
        yield Imported(frozenset(before.split()), frozenset(after.split()))


def wait_taken_over(node: EnforcerNode, process: subprocess.Popen[bytes]) -> None:
    """Until the plan is in the kernel, and the enforcer has looked at what others may have left."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        assert process.poll() is None, (node.directory / "log").read_text()
        assert time.monotonic() < deadline, (node.directory / "log").read_text()
        body = node.namespace.run("curl", "-s", "http://127.0.0.1:10249/statusz", check=False)
        if body and json.loads(body)["leftovers"]["state"] != NotYet().describe()["leftovers"]["state"]:
            return
        time.sleep(0.02)


def test_only_the_mode_s_own_code_is_imported(mode: str, imported: Imported) -> None:
    own = MODES[mode][0]
    assert {f"{DATAPLANE}.{each}" for each in own} <= imported.at_first_sync
    assert found(imported.at_end, tuple(f"{DATAPLANE}.{each}" for each in BACKENDS - own)) == []


def test_the_plan_is_in_the_kernel_before_grpc_and_takeover_are_imported(imported: Imported) -> None:
    assert found(imported.at_first_sync, LATER) == []


def test_nothing_is_imported_that_other_services_and_tests_need(imported: Imported) -> None:
    assert found(imported.at_end, OF_OTHERS) == []
