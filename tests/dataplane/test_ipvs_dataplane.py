# SPDX-License-Identifier: Apache-2.0
"""The IPVS dataplane in a real kernel: a thousand services, adopted by a restart; a cleanup that hurts nobody."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from conformance.executors.modes import IPVS

from pointsman_lab.guest.machine import run_in_guest

_PROGRAM = Path(__file__).parents[1] / "support" / "ipvs_backend_guest.py"


def test_services_are_programmed_adopted_and_removed_and_foreign_virtual_servers_stay(tmp_path: Path) -> None:
    result = run_in_guest(
        [sys.executable, str(_PROGRAM)], shared=tmp_path, modules=IPVS.guest_modules, timeout_seconds=180
    )
    assert result.status == 0, result.output
    seen = json.loads(result.output.splitlines()[-1])
    assert seen["first"] == "NOTHING"
    assert seen["servers"] == 1000
    assert seen["reals"] == 9999
    assert seen["looked"] == 0
    assert seen["again"]
    assert seen["adopted"] == 999
    assert seen["foreign"] == "-A -t 192.0.2.1:80 -s rr"
    assert "pointsman" not in seen["sets"]
    assert "POINTSMAN" not in seen["rules"]
