# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's IPVS in a real kernel: what carries connections stays until they have ended, all else goes at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pointsman_lab.guest.machine import run_in_guest
from support.kube_proxy_rules.guest import MODULES

_TESTS = Path(__file__).parents[1]


def test_connections_outlive_the_removal_and_virtual_servers_of_others_stay(tmp_path: Path) -> None:
    result = run_in_guest(
        [sys.executable, "-m", "support.kube_proxy_rules.ipvs_guest"],
        shared=tmp_path,
        modules=MODULES,
        environment={"PYTHONPATH": str(_TESTS)},
        timeout_seconds=180,
    )
    assert result.status == 0, result.output
    seen = json.loads(result.output.splitlines()[-1])
    assert seen["arrives"] == [True, True, True]
    assert len(seen["found"]) == 2
    assert seen["goes on"]
    assert seen["rest"].startswith("1 virtual servers, 1 of them with connections; kube-ipvs0 with 1 addresses")
    assert seen["waits"]
    assert seen["servers"] == 3
    assert seen["left"] == []
    assert seen["foreign"] == ["-A -t 192.0.2.1:80 -s rr", "-A -t 192.168.0.2:9999 -s rr"]
    assert not seen["device"]
    assert seen["sets"] == ""
    assert seen["others untouched"]
