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
    told = played()
    assert declarations_of(told) == 0
    assert_waterfall(told)


@pytest.mark.parametrize("mode", DECLARED)
def test_the_demo_passes_in_other_modes_and_names_what_is_declared(mode: str) -> None:
    told = played("--mode", mode)
    assert f"mode {mode}" in told
    assert declarations_of(told) == DECLARED[mode]


def assert_waterfall(told: str) -> None:
    """A change is drawn from the API event to the commit and the ack of every node: a bar each, children indented."""
    drawn = re.findall(
        r"^ *pointsman-([a-z]+) (\S+)( +)([a-z.]+) +[\d.]+ ms +[\d.]+ ms \| *#+ *\|$", told, re.MULTILINE
    )
    steps = [f"{service} {step}" for service, _, _, step in drawn]
    assert {place for service, place, _, step in drawn if step == "dataplane.apply"} >= {"node-1", "node-2", "node-3"}
    assert steps.count("planner ack") >= 3
    assert steps[:3] == ["watcher watch.event", "planner plan.compute", "planner plan.send"]
    columns = [len(f"{service} {place}{blanks}") for service, place, blanks, _ in drawn[:3]]
    assert columns == sorted(set(columns)), "children stand to the right of their parents"


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
