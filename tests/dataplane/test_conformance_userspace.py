# SPDX-License-Identifier: Apache-2.0
"""The packet-flow catalogue through the proxy of userspace mode, with its declared deviations."""

from __future__ import annotations

import pytest
from conformance import report
from conformance.executors.deviations import held_to
from conformance.executors.kernel import groups
from conformance.executors.modes import USERSPACE
from conformance.executors.pool import KernelPool
from conformance.table import all_rows, runnable

pytestmark = [pytest.mark.root, pytest.mark.alone, pytest.mark.timeout(600)]
ROWS = [row for row in runnable(all_rows(), USERSPACE.rows) if row.check is None]
SECTIONS = frozenset({1, 2, 3, 5, 8, 11, 15})
"""Those whose rows meet something different here; `make conformance MODE=userspace` runs all."""
TAKEN_AWAY = {"135", "158r"}


def test_packets_go_where_the_specification_says_but_for_what_is_declared() -> None:
    rows = held_to([row for row in ROWS if row.section in SECTIONS], USERSPACE.deviations)
    with KernelPool(USERSPACE) as pool:
        results = [result for some in pool.run(groups(rows)) for result in some]
    assert len(results) == len(rows)
    assert list(report.failures(results)) == []


def test_no_more_rows_are_taken_away_than_are_declared() -> None:
    kept = {row.id for row in held_to(ROWS, USERSPACE.deviations)}
    assert {row.number for row in ROWS if row.id not in kept} == TAKEN_AWAY
