# SPDX-License-Identifier: Apache-2.0
"""The state directory: one lab per name, and leftovers of a killed one do not matter."""

import os
from pathlib import Path

import pytest

from pointsman_lab.errors import LabUsageError
from pointsman_lab.statedir import LabFile, StateDirectory, running_labs


def lab_file() -> LabFile:
    return LabFile(name="a", guard_pid=1, init_pid=2, kubeconfig="k", server="s", nodes=["node-1"])


def test_a_name_is_taken_while_its_lock_is_held(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path, "a")
    lock = state.create()
    state.write(lab_file())
    assert running_labs(tmp_path) == ["a"]
    assert StateDirectory(tmp_path, "a").read() == lab_file()
    with pytest.raises(LabUsageError, match="'a' is running"):
        StateDirectory(tmp_path, "a").create()
    os.close(lock)
    assert running_labs(tmp_path) == []
    with pytest.raises(LabUsageError, match="no lab called 'a'"):
        state.read()


def test_what_a_killed_lab_left_is_swept(tmp_path: Path) -> None:
    os.close(StateDirectory(tmp_path, "a").create())
    (tmp_path / "a" / "logs" / "old.log").write_text("old")
    lock = StateDirectory(tmp_path, "a").create()
    assert not (tmp_path / "a" / "logs" / "old.log").exists()
    os.close(lock)


@pytest.mark.parametrize("name", ["", "../x", "A", "-a", "a" * 40])
def test_a_name_that_is_no_directory_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LabUsageError, match="lab name"):
        StateDirectory(tmp_path, name)
