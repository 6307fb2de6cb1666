# SPDX-License-Identifier: Apache-2.0
"""What ipvs mode does in a real kernel: the tests of tests/guest, run by pytest inside a guest, one for each file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conformance.executors.modes import IPVS

from pointsman_lab.guest.machine import run_in_guest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "tests" / "guest").glob("ipvs_*.py"))


def test_there_is_something_to_run() -> None:
    assert len(FILES) >= 2


@pytest.mark.timeout(400)
@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.stem))
def test_in_a_guest(file: Path, tmp_path: Path) -> None:
    options = ["-q", "-p", "no:cacheprovider", "-o", "python_files=ipvs_*.py", "-o", "addopts="]
    result = run_in_guest(
        [sys.executable, "-m", "pytest", *options, str(file)],
        shared=tmp_path,
        modules=IPVS.guest_modules,
        environment={"PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1"},
        directory=ROOT,
        timeout_seconds=300,
    )
    assert result.status == 0, result.output[-8000:]
