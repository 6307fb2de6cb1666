# SPDX-License-Identifier: Apache-2.0
"""The enforcer as an operator runs it: a command, a configuration file, a state directory, in a node's namespace."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pointsman_enforcer.core.plan_log import encode_snapshot
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.core.transaction import Transaction
from pointsman_model.names import ServiceKey
from pointsman_model.plan import NodeFacts, ServicePlan
from pointsman_model.wire.plan import encode_service_plan
from support.netns import NetNs

DEADLINE_SECONDS = 30.0


class EnforcerNode:
    """A namespace in which enforcers run, and their directory."""

    def __init__(self, namespace: NetNs, directory: Path, facts: NodeFacts, **config: object) -> None:
        self.namespace = namespace
        self.directory = directory
        self.facts = facts
        self.config_file = directory / "enforcer.yaml"
        self.run_by: tuple[str, ...] = ()
        """A command that runs the enforcer, such as one that takes its rights away."""
        self.configure(**config)

    def configure(self, **config: object) -> None:
        """Write the configuration file; the state directory is this node's."""
        document = {
            "apiVersion": "config.pointsman.io/v1alpha1",
            "kind": "EnforcerConfiguration",
            "hostnameOverride": "node-1",
            "stateDirectory": str(self.directory),
            "security": {"insecure": True},
            **config,
        }
        self.config_file.write_text(json.dumps(document))

    def write_plan(self, plans: Mapping[ServiceKey, ServicePlan]) -> None:
        """Put a whole plan on the disk."""
        store = PlanStore()
        encoded = {key: encode_service_plan(plan) for key, plan in plans.items()}
        store.apply(Transaction(nonce=1, updates=encoded, facts=self.facts, replaces_all=True))
        store.is_complete = True
        (self.directory / "plan.log").write_bytes(b"".join(encode_snapshot(store.snapshot())))

    def command(self, *arguments: str, check: bool = True) -> str:
        """Run the command to its end inside; its standard output."""
        return self.namespace.run(*self._argv(*arguments), check=check)

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """An enforcer whose plan on disk is in the kernel; it is killed at the end, as by a crash."""
        with (self.directory / "log").open("ab") as log:
            process = self.namespace.popen(*self._argv(), stderr=log)
        try:
            self._wait_programmed(process)
            yield process
        finally:
            process.kill()
            process.wait()

    def status(self) -> dict[str, Any]:
        """What /statusz says."""
        found: dict[str, Any] = json.loads(self.get("http://127.0.0.1:10249/statusz"))
        return found

    def get(self, url: str) -> str:
        """The body of a page."""
        return self.namespace.run("curl", "-s", url)

    def _wait_programmed(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < deadline:
            assert process.poll() is None, (self.directory / "log").read_text()
            body = self.namespace.run("curl", "-s", "http://127.0.0.1:10249/statusz", check=False)
            if body and json.loads(body)["pending"] == 0:
                return
            time.sleep(0.02)
        raise AssertionError((self.directory / "log").read_text())

    def _argv(self, *arguments: str) -> tuple[str, ...]:
        return (*self.run_by, sys.executable, "-m", "pointsman_enforcer", "--config", str(self.config_file), *arguments)
