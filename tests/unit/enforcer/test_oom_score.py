# SPDX-License-Identifier: Apache-2.0
"""oomScoreAdj is written once, and a refusal does not end the process."""

from __future__ import annotations

from pathlib import Path

from structlog.testing import capture_logs

from pointsman_enforcer.oom_score import adjust_oom_score


def test_the_value_is_written(tmp_path: Path) -> None:
    file = tmp_path / "oom_score_adj"
    file.write_text("0\n")
    assert adjust_oom_score(-999, file=file)
    assert file.read_text() == "-999\n"


def test_a_value_that_stands_already_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "oom_score_adj"
    file.write_text("-999 ")
    assert adjust_oom_score(-999, file=file)
    assert file.read_text() == "-999 "


def test_a_refusal_is_said(tmp_path: Path) -> None:
    with capture_logs() as logs:
        assert not adjust_oom_score(-999, file=tmp_path / "absent")
    assert [entry["field"] for entry in logs] == ["oomScoreAdj"]
