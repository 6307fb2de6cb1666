# SPDX-License-Identifier: Apache-2.0
"""What a mode does otherwise is told to whoever chooses it: the README lists every declared deviation, and no other."""

from __future__ import annotations

from pathlib import Path

from conformance.executors.deviations import IPTABLES, IPVS, USERSPACE, table_rows

_README = Path(__file__).parents[3] / "README.md"
_HEADING = "| mode | what it does otherwise | why |"


def test_the_readme_lists_exactly_the_declared_deviations() -> None:
    declared = [
        row
        for mode, each in (("iptables", IPTABLES), ("ipvs", IPVS), ("userspace", USERSPACE))
        for row in table_rows(mode, each)
    ]
    after = _README.read_text().split(_HEADING, 1)[1].splitlines()
    listed = [line for line in after[: after.index("", 1)] if line.startswith("| ")]
    assert listed == declared
