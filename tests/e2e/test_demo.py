# SPDX-License-Identifier: Apache-2.0
"""`make demo` as a newcomer sees it, in its modes: checks pass in the promised time, and the last line says so."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.root, pytest.mark.alone, pytest.mark.lab, pytest.mark.timeout(180)]

CHECKS_MIN = 20


DECLARED = {
    "iptables": 0,
    "userspace": 2,
}
"""How many things a mode is declared to do otherwise in what the demo shows."""


def test_the_demo_passes_and_says_so_in_its_last_line() -> None:
    assert declarations_of(played()) == 0


@pytest.mark.parametrize("mode", DECLARED)
def test_the_demo_passes_in_other_modes_and_names_what_is_declared(mode: str) -> None:
    told = played("--mode", mode)
    assert f"mode {mode}" in told
    assert declarations_of(told) == DECLARED[mode]


def declarations_of(told: str) -> int:
    return len(re.findall(r"^  declared of \w+ mode: ", told, re.MULTILINE))


def played(*arguments: str) -> str:
    """What the demo says, after it was found to have passed."""
    environment = {key: value for key, value in os.environ.items() if key != "KEEP"}
    ended = subprocess.run(
        [sys.executable, "-m", "pointsman_lab.demo", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    last = ended.stdout.splitlines()[-1]
    counted = re.fullmatch(r"demo: (\d+) checks passed, 0 failed", last)
    assert counted is not None, ended.stdout + ended.stderr
    assert int(counted[1]) >= CHECKS_MIN
    assert int(counted[1]) == len(re.findall(r"^  ok ", ended.stdout, re.MULTILINE))
    assert ended.returncode == 0
    assert ended.stderr == ""
    return ended.stdout
