# SPDX-License-Identifier: Apache-2.0
"""Our generic netlink and a real IPVS understand each other, refusals included; ipvsadm sees the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pointsman_lab.guest.machine import run_in_guest

_PROGRAM = Path(__file__).parents[1] / "support" / "ipvs_guest.py"
_MODULES = ["ip_vs", "ip_vs_rr", "ip_vs_mh", "ip_vs_wlc", "ip_vs_sh", "ip_vs_wrr"]


def test_ipvs_has_what_was_sent_and_refusals_name_their_message(tmp_path: Path) -> None:
    result = run_in_guest([sys.executable, str(_PROGRAM)], shared=tmp_path, modules=_MODULES, timeout_seconds=120)
    assert result.status == 0, result.output
    seen = json.loads(result.output.splitlines()[-1])
    assert seen["refused"] == []
    assert seen["same"]
    assert seen["reals"] == [True] * 5
    assert sorted(line.strip() for line in seen["ipvsadm"].splitlines() if line.startswith("-A")) == [
        "-A --sctp-service [fd10::1]:9 -s wlc -p 10800",
        "-A -f 77 -s sh -b sh-port",
        "-A -f 78 -6 -s wrr",
        "-A -t 10.96.0.1:80 -s rr",
        "-A -u 10.96.0.1:53 -s mh -b mh-fallback,mh-port",
    ]
    assert "-a -t 10.96.0.1:80 -r 10.1.0.1:8080 -m -w 3" in seen["ipvsadm"]
    assert [index for index, _ in seen["errors"]] == [0, 2, 3]
    assert seen["errors"][0][1] == "add TCP 10.96.0.1:80: File exists"
    assert seen["errors"][1][1].startswith("remove 10.1.0.9:8080 from TCP 10.96.0.1:80: ")
    assert seen["errors"][2][1].startswith("remove FWM 5: ")
    assert seen["drained"] == 0
    assert seen["timeouts"][0] == 1000
    assert seen["timeouts"][2] == 99
    assert seen["nobody"] == []
    assert seen["sends"] == 1
