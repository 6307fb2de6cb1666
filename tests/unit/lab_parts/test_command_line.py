# SPDX-License-Identifier: Apache-2.0
"""What the command line says when it cannot do what it is asked."""

import os

import pytest
from typer.testing import CliRunner

from pointsman_lab.cli.app import app

USAGE = 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["up", "--nodes", "2", "--zones", "5"], "zones must be between 1 and the number of nodes (2), not 5"),
        (["up", "--services", "foo"], "unknown foo"),
        (["up", "-f", "/absent.yaml"], "cannot read /absent.yaml"),
        (["up", "--name", "Bad"], "lab name 'Bad'"),
        (["down", "--name", "no-such-lab"], "no lab called 'no-such-lab' is running"),
        (["fault", "partition", "node-1", "--name", "no-such-lab"], "no lab called 'no-such-lab' is running"),
    ],
)
def test_a_mistake_gets_one_message_and_status_two(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == USAGE
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_without_root_up_says_that_it_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    result = CliRunner().invoke(app, ["up"])
    assert result.exit_code == USAGE
    assert "needs root" in result.stderr
