# SPDX-License-Identifier: Apache-2.0
"""Which of two places of the same switches is written to."""

from pathlib import Path

from pointsman_enforcer.dataplane.proc_sys import OWN, network_sysctls


def test_the_nodes_are_taken_where_they_are_mounted_and_our_own_elsewhere(tmp_path: Path) -> None:
    assert network_sysctls(tmp_path / "absent") == OWN
    assert network_sysctls(tmp_path) == tmp_path
