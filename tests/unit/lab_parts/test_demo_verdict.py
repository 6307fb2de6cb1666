# SPDX-License-Identifier: Apache-2.0
"""The demo's last line and exit status say how many checks held; none is forgotten."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from pointsman_lab.demo import __main__ as demo
from pointsman_lab.demo.story import Story
from pointsman_lab.errors import LabStartError


def story() -> tuple[Story, io.StringIO]:
    out = io.StringIO()
    return Story(console=Console(file=out, width=200)), out


def test_checks_are_counted_by_whether_they_hold() -> None:
    told, out = story()
    told.check("two and two are four", holds=True)
    told.check("two and two are five", holds=False, found=4)
    told.say("neither held nor failed")
    assert told.verdict() == "demo: 1 checks passed, 1 failed"
    assert told.failed == ["two and two are five"]
    assert "FAILED two and two are five" in out.getvalue()
    assert "found: 4" in out.getvalue()


@pytest.mark.parametrize(("holds", "status"), [(True, 0), (False, 1)])
def test_the_exit_status_is_zero_only_when_every_check_held(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], holds: bool, status: int
) -> None:
    async def play(told: Story, *, keep: bool) -> None:
        told.check("first", holds=True)
        told.check("second", holds=holds)

    monkeypatch.setattr(demo, "play", play)
    assert demo.main() == status
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"demo: {1 + holds} checks passed, {1 - holds} failed"


def test_a_lab_that_does_not_start_is_a_failed_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def play(told: Story, *, keep: bool) -> None:
        raise LabStartError("no room")

    monkeypatch.setattr(demo, "play", play)
    assert demo.main() == 1
    out = capsys.readouterr().out
    assert "no room" in out
    assert out.splitlines()[-1] == "demo: 0 checks passed, 1 failed"


def test_an_interrupted_demo_has_not_passed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def play(told: Story, *, keep: bool) -> None:
        told.check("first", holds=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "play", play)
    assert demo.main() == 1
    assert capsys.readouterr().out.splitlines()[-1] == "demo: 1 checks passed, 1 failed"
