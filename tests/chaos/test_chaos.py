# SPDX-License-Identifier: Apache-2.0
"""`make chaos` for a short while, as it is called; and a schedule is what its seed says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from chaos.schedule import SECONDS_MIN, Harm, Places, make_round

_RUN = Path(__file__).with_name("run.py")
PLACES = Places(
    watchers=("watcher-1", "watcher-2"), planners=("planner-1", "planner-2", "planner-3"), nodes=("node-1", "node-2")
)


@pytest.mark.root
@pytest.mark.lab
@pytest.mark.alone
@pytest.mark.timeout(180)
def test_nothing_fails_and_everything_agrees_whatever_is_done_to_the_parts() -> None:
    argv = [sys.executable, str(_RUN), "--seed", "11", "--duration", "12"]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    last = ended.stdout.splitlines()[-1]
    counted = re.fullmatch(r"faults injected (\d+), requests sent (\d+), requests failed 0, divergences 0", last)
    assert counted is not None, ended.stdout + ended.stderr
    assert int(counted[1]) >= 3
    assert int(counted[2]) >= 1000
    assert ended.returncode == 0
    assert ended.stderr == ""


def test_a_seed_is_a_schedule() -> None:
    first, second, other = (make_round(Random(seed), PLACES, seconds=60) for seed in (5, 5, 6))
    assert first == second != other


def test_every_harm_is_drawn_and_stays_within_its_round_and_no_subject_suffers_two_at_a_time() -> None:
    drawn: set[Harm] = set()
    for seed in range(40):
        wanted = make_round(Random(seed), PLACES, seconds=14)
        assert wanted.faults
        free_at: dict[str, float] = {}
        for fault in wanted.faults:
            assert fault.at >= free_at.get(fault.subject, 0.0)
            assert fault.seconds >= SECONDS_MIN
            assert fault.at + fault.seconds <= wanted.seconds + 1e-9
            free_at[fault.subject] = fault.at + fault.seconds
            drawn.add(fault.harm)
    assert drawn == set(Harm)
