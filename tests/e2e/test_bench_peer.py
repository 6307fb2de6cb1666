# SPDX-License-Identifier: Apache-2.0
"""`make bench` with PEER_KUBE_PROXY: both are measured alike and put in ratio, shown with a program that stands in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.lab]
STAND_IN = Path(__file__).parents[1] / "support" / "stand_in_kube_proxy.py"
SIZE, CHANGES = 20, 5


def bench(peer: Path, output: Path) -> subprocess.CompletedProcess[str]:
    """The benchmark's comparison alone, small."""
    options = ("--only", "peer", "--peer-modes", "nftables", "--sizes", str(SIZE), "--changes", str(CHANGES))
    return subprocess.run(
        [sys.executable, "-m", "pointsman_lab.bench", *options, "--output", str(output)],
        env={**os.environ, "PEER_KUBE_PROXY": str(peer)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_both_are_measured_under_the_same_names_and_put_in_ratio(tmp_path: Path) -> None:
    peer = tmp_path / "kube-proxy"
    peer.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}" "$@"\n')
    peer.chmod(0o755)
    done = bench(peer, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "report.json").read_text())["figures"]
    named = {
        who: {(each["name"], each["percentile"]): each["value"] for each in figures if each["who"] == who}
        for who in ("pointsman", "kube-proxy")
    }
    assert named["pointsman"].keys() == named["kube-proxy"].keys()
    assert named["kube-proxy"]["nftables: API server: watches that a node adds", None] == 2
    assert named["pointsman"]["nftables: API server: watches that a node adds", None] == 0
    assert named["kube-proxy"]["nftables: one endpoint change: API write sent -> kernel commit", 50] > 0
    assert named["kube-proxy"]["nftables: connect, with the first packet, to the last service", 50] > 0
    report = (tmp_path / "report.md").read_text()
    assert "| nftables: cold start | 20 services |" in report[: report.index("## Figures")]


def test_a_peer_that_cannot_be_run_is_an_error_that_says_so(tmp_path: Path) -> None:
    done = bench(tmp_path / "missing", tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"bench: PEER_KUBE_PROXY, --peer: {tmp_path / 'missing'} is not a program that can be run"
    )
