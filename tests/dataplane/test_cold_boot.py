# SPDX-License-Identifier: Apache-2.0
"""A node that boots into a cluster in which no Service works and no name resolves, on a real kernel.

The namespace has a loopback interface and nothing else: no route to any cluster IP, no name server. What the node needs
is the API server's own address, and afterwards not even that.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pointsman_chassis.settings import settings_as_data
from pointsman_model.names import parse_address
from pointsman_model.plan import NodeFacts
from support.certificates import Authority
from support.enforcer_process import EnforcerNode
from support.netns import NetNs

pytestmark = pytest.mark.root
DEADLINE_SECONDS = 30.0
PLANNER_PORT = 7402
SERVICE = "172.30.0.1"


@pytest.fixture
def namespace() -> Iterator[NetNs]:
    with NetNs() as made:
        yield made


@contextmanager
def cluster(namespace: NetNs, directory: Path, *options: str) -> Iterator[None]:
    """A planner at PLANNER_PORT and, unless the options say no, an API server that knows of it."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    argv = (sys.executable, "-m", "support.cold_boot_main", str(directory), str(PLANNER_PORT), *options)
    with (directory / "cluster-output").open("ab") as log:
        process = namespace.popen(*argv, env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def wait_for(condition: Callable[[], bool], directory: Path) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "\n".join(map(Path.read_text, directory.rglob("*output")))
        time.sleep(0.02)


def programmed(namespace: NetNs) -> bool:
    return SERVICE in namespace.run("nft", "list", "ruleset")


def test_a_node_boots_with_the_api_server_s_own_address_and_boots_again_without_it(
    namespace: NetNs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    state = tmp_path / "state"
    state.mkdir()
    kubeconfig = tmp_path / "kubeconfig"
    facts = NodeFacts(name="node-1", addresses=(parse_address("192.168.0.2"),))
    authority = Authority("cold boot")
    (tmp_path / "tls").mkdir()
    authority.issue(tmp_path / "tls", "localhost")
    node = EnforcerNode(
        namespace,
        state,
        facts,
        security=settings_as_data(authority.issue(tmp_path / "tls", "node-1", server_name="localhost")),
        plannerAddresses=["10.96.0.10:7402", "dns:planner.cluster.local:7402"],
        plannerLookup={"kubeconfig": str(kubeconfig)},
    )
    with cluster(namespace, tmp_path):
        wait_for(kubeconfig.exists, tmp_path)
        with running(node):
            wait_for(lambda: programmed(namespace), tmp_path)
            wait_for((state / "planners.json").exists, tmp_path)
            status = node.status()
            assert (status["planner"], status["planners"]["remembered"]) == ("here", [f"127.0.0.1:{PLANNER_PORT}"])
    kubeconfig.unlink()
    (state / "plan.log").unlink()
    namespace.run("nft", "flush", "ruleset")
    with cluster(namespace, tmp_path, "--without-api-server"), running(node):
        wait_for(lambda: programmed(namespace), tmp_path)


@contextmanager
def running(node: EnforcerNode) -> Iterator[subprocess.Popen[bytes]]:
    argv = (sys.executable, "-m", "pointsman_enforcer", "--config", str(node.config_file))
    with (node.directory / "output").open("ab") as log:
        process = node.namespace.popen(*argv, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
