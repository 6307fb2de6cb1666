# SPDX-License-Identifier: Apache-2.0
"""`make demo` as a newcomer sees it: every check passes, within the promised time, and the last line says so."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.root, pytest.mark.alone, pytest.mark.lab, pytest.mark.timeout(180)]

CHECKS_MIN = 20


def test_the_demo_passes_and_says_so_in_its_last_line() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "KEEP"}
    ended = subprocess.run(
        [sys.executable, "-m", "pointsman_lab.demo"], env=environment, capture_output=True, text=True, check=False
    )
    last = ended.stdout.splitlines()[-1]
    counted = re.fullmatch(r"demo: (\d+) checks passed, 0 failed", last)
    assert counted is not None, ended.stdout + ended.stderr
    assert int(counted[1]) >= CHECKS_MIN
    assert int(counted[1]) == len(re.findall(r"^  ok ", ended.stdout, re.MULTILINE))
    assert ended.returncode == 0
    assert ended.stderr == ""
