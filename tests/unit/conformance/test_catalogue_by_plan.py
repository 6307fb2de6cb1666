# SPDX-License-Identifier: Apache-2.0
"""Every row of the packet-flow catalogue, by the plan alone: watcher's decoder, planner, reference tracer."""

from __future__ import annotations

import pytest
from conformance.executors import pure
from conformance.model import Row
from conformance.table import all_rows, runnable

ROWS = [row for row in runnable(all_rows(), "nftables") if not row.needs_dataplane]


@pytest.mark.parametrize("row", ROWS, ids=[row.id for row in ROWS])
def test_the_plan_sends_packets_where_the_catalogue_says(row: Row) -> None:
    result = pure.run_row(row)
    assert result.is_passed, "\n".join([row.summary, *map(str, result.failures)])
