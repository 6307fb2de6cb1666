# SPDX-License-Identifier: Apache-2.0
"""A part of the packet-flow table in ipvs mode, in a guest; `make conformance MODE=ipvs` is all of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.alone, pytest.mark.timeout(600)]
_PROGRAM = Path(__file__).parents[1] / "conformance" / "run.py"
_SECTIONS = ("3", "6")
"""Source ranges, and internalTrafficPolicy without falling back."""


def test_packets_go_where_the_specification_says() -> None:
    sections = [word for section in _SECTIONS for word in ("--section", section)]
    command = [sys.executable, str(_PROGRAM), "--mode", "ipvs", "--executor", "kernel", *sections]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    passed, _, failed, _ = result.stdout.split()[-4:]
    assert int(passed) >= 40
    assert failed == "0"
