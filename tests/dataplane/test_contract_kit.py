# SPDX-License-Identifier: Apache-2.0
"""The contract kit finds no broken rule in our own enforcer, as a process on a real kernel."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.netns import NetNs

pytestmark = pytest.mark.root

KIT = Path(__file__).resolve().parents[1] / "kit" / "run.py"


def test_our_enforcer_keeps_every_rule_of_the_contract(tmp_path: Path) -> None:
    config = {
        "apiVersion": "config.pointsman.io/v1alpha1",
        "kind": "EnforcerConfiguration",
        "hostnameOverride": "node-1",
        "stateDirectory": str(tmp_path),
        "plannerAddresses": ["127.0.0.1:7402"],
        "clusterCIDR": "10.0.0.0/8",
        "security": {"insecure": True},
    }
    file = tmp_path / "enforcer.yaml"
    file.write_text(json.dumps(config))
    enforcer = f"{sys.executable} -m pointsman_enforcer --config {file}"
    with NetNs("kit") as namespace:
        arguments = ("enforcer", "--fresh", "--interval", "0.3", "--command", enforcer)
        kit = namespace.popen(sys.executable, str(KIT), *arguments, stdout=subprocess.PIPE)
        try:
            said = kit.communicate(timeout=90)[0].decode()
        finally:
            kit.terminate()
            kit.wait()
    assert said.splitlines()[-1].endswith(" pass, 0 fail, 0 not seen"), said
    assert said.count("  pass  ") >= 26
