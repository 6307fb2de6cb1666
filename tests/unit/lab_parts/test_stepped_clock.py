# SPDX-License-Identifier: Apache-2.0
"""The wall clock of a Python process is set from outside, at any moment, and its monotonic clock is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pointsman_lab import supervise
from pointsman_lab.cluster import Cluster
from pointsman_lab.errors import LabUsageError
from pointsman_lab.settings import LabSettings

DIRECTORY = Path(supervise.__file__).parent / "clock"
HOUR = 3600
PROGRAM = """
import sys, time
for _ in sys.stdin:
    print(time.time(), time.time_ns() / 1e9, time.monotonic(), flush=True)
"""


def clocks(environment: dict[str, str], cluster: Cluster) -> list[tuple[float, float, float]]:
    """What a process reads before and after its clock is set an hour forward and, twice, an hour back."""
    read = []
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for seconds in (0, HOUR, -HOUR, -HOUR):
            if seconds:
                cluster.step_clock("planner-1", seconds)
            process.stdin.write("\n")
            process.stdin.flush()
            wall, wall_ns, monotonic = map(float, process.stdout.readline().split())
            read.append((wall, wall_ns, monotonic))
        process.stdin.close()
    return read


def test_a_process_lives_at_the_time_it_is_told(tmp_path: Path) -> None:
    cluster = Cluster(LabSettings(root=str(tmp_path), stepped_clocks=True))
    path = cluster.state.clock("planner-1")
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(8))
    environment = os.environ | {"PYTHONPATH": str(DIRECTORY), "POINTSMAN_LAB_CLOCK": str(path)}
    (start, _, begin), *later = clocks(environment, cluster)
    for offset, (wall, wall_ns, monotonic) in zip((HOUR, 0, -HOUR), later, strict=True):
        assert monotonic >= begin
        assert wall - start == pytest.approx(offset + monotonic - begin, abs=5)
        assert wall_ns == pytest.approx(wall, abs=5)


def test_without_being_asked_to_no_clock_is_touched(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time is time.time.__self__.time)"],
        env=os.environ | {"PYTHONPATH": str(DIRECTORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout == "True\n"
    cluster = Cluster(LabSettings(root=str(tmp_path)))
    with pytest.raises(LabUsageError, match="cannot be set"):
        cluster.step_clock("planner-1", 1.0)
