# SPDX-License-Identifier: Apache-2.0
"""Every row of the packet-flow catalogue, by the plan alone: watcher's decoder, planner, reference tracer."""

from __future__ import annotations

import pytest
from conformance import report
from conformance.executors import pure
from conformance.executors.kernel import groups
from conformance.table import all_rows, runnable

ROWS = [row for row in runnable(all_rows(), "nftables") if not row.needs_dataplane]
SECTIONS = sorted({row.section for row in ROWS})


@pytest.mark.parametrize("section", SECTIONS)
def test_the_plan_sends_packets_where_the_catalogue_says(section: int) -> None:
    rows = [row for row in ROWS if row.section == section]
    results = [result for group in groups(rows) for result in pure.run_group(group)]
    assert len(results) == len(rows)
    assert list(report.failures(results)) == []
