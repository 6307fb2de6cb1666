# SPDX-License-Identifier: Apache-2.0
"""A command line that names something impossible ends with 2, says what and what to write, and prints no data."""

from __future__ import annotations

from pathlib import Path

import pytest

from pointsman_ctl.__main__ import main


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTSMAN_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("POINTSMAN_INSECURE", "1")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("endpoints a/b/c", "write NAME, NAMESPACE/NAME or svc/NAME"),
        ("explain 10.0.0.1 10.96.0.1 --node n", "ADDRESS:PORT"),
        ("explain web 10.96.0.1:80 --node n", "names are not looked up"),
        ("explain 10.0.0.1 10.96.0.1:80", "Missing option '--node'"),
        ("wait --timeout 1s", "name one or more Services, or give --all"),
        ("wait web --all", "name one or more Services, or give --all"),
        ("wait web --timeout soon", "expected a duration such as"),
        ("wait web --timeout 1h", "at most 10m"),
        ("wait a b --resource-version 7", "are about one Service"),
        ("status --tls-cert x", "--insecure excludes"),
        ("status --config /nonexistent.yaml", "cannot read configuration /nonexistent.yaml"),
        ("status -o xml", "'xml' is not one of"),
        ("status -s 10.0.0.5", "'10.0.0.5' names no planner: write HOST:PORT"),
        ("status -s fd00::5:7444", "write HOST:PORT"),
        ("stats", "No such command 'stats'"),
        ("override drain d nodes=x", "selects no endpoints: write node=NAME"),
        ("override drain d address=pod", "'pod' is no IP address"),
        ("override weight w --service a/b --rule node=x -1", "a weight is 0 or more"),
        ("override register r --service a/b --port x --endpoint 10.0.0.1", "'x' is no port"),
        ("override pin p node=x --service a/b -n c", "is not that of --service a/b"),
        ("rules", "name a node, or give --local"),
        ("check --pre --skip cluster", "nothing is left to check"),
        ("sysdump -f /nonexistent/dump.tar.gz", "cannot write /nonexistent/dump.tar.gz"),
        ("config convert", "name a FILE, or give --from-cluster"),
        ("trace", "where are the traces? Give --jaeger URL"),
        ("trace --jaeger ftp://x", "begin with http:// or https://"),
        ("trace xyz --jaeger http://127.0.0.1:1", "is no trace id"),
        ("trace --file /nonexistent", "cannot read /nonexistent"),
        ("completion tcsh", "'tcsh' is not one of"),
    ],
)
def test_what_cannot_be_is_refused(line: str, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    out, err = capfd.readouterr()
    assert said in err
    assert out == ""


def test_certificates_that_cannot_be_used_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("POINTSMAN_INSECURE")
    (tmp_path / "junk").write_text("junk")
    (tmp_path / "mine.crt").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    junk = str(tmp_path / "junk")
    for certificate in (junk, str(tmp_path / "mine.crt")):
        line = ["status", "--tls-cert", certificate, "--tls-key", junk, "--tls-ca", certificate]
        assert main(line) == 2
        assert f"cannot use {certificate}" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("trace --jaeger http://127.0.0.1:1", "is it served there, and reachable from here?"),
        (f"trace --file {__file__}", "holds no traces that can be read"),
    ],
)
def test_what_fails_for_now_is_told_from_it(line: str, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 1
    assert said in capfd.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_command(shell: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "_POINTSMANCTL_COMPLETE" in capfd.readouterr().out
