# SPDX-License-Identifier: Apache-2.0
"""Every row of the packet-flow catalogue in a real kernel with real sockets: nftables, both families."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from conformance import generated, generated_affinity, report, systematic
from conformance.alterations import ALTERATIONS
from conformance.executors import pure
from conformance.executors.kernel import KernelExecutor, groups
from conformance.executors.pool import KernelPool
from conformance.model import IpFamily, Row, RowResult
from conformance.table import all_rows, runnable

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]
ROWS = [row for row in runnable(all_rows(), "nftables") if row.check is None]
GENERATED = (*generated.rows(4, seed=2026), *generated_affinity.rows(2, seed=2026))
SYSTEMATIC = tuple(systematic.some_worlds(systematic.covering(), 8))
ROWS_MIN = 1000
FAULTS = ("masquerade is the opposite", "refusals are exchanged", "endpoint ports are off by one", "no hairpin")
"""One of each kind; `test_rendered_rules` has all."""
ALTERED_ROWS = [
    row
    for row in ROWS
    if row.family is IpFamily.IPV4
    and row.number
    in {
        "2d",
        "6",
        "8d",
        "10",
        "12",
        "30",
        "33",
        "43nh",
        "47",
        "61",
        "71.LB",
        "80",
        "84s.d.svc2.LB",
        "86s.d.svc1.ClusterIP",
    }
]
"""A few of each kind: enough for each fault to show, few enough to run once for each."""


class CatalogueRun:
    """Rows by the kernel, all at once when the first one is asked for."""

    def __init__(self, pool: KernelPool) -> None:
        self.pool = pool
        self.executor = pool.first
        self._results: dict[str, RowResult] = {}

    def result(self, row: Row) -> RowResult:
        if not self._results:
            ran = self.pool.run(groups([*ROWS, *GENERATED]))
            self._results = {one.row.id: one for results in ran for one in results}
        return self._results[row.id]


@pytest.fixture(scope="module")
def run() -> Iterator[CatalogueRun]:
    with KernelPool() as pool:
        yield CatalogueRun(pool)


@pytest.fixture(scope="module")
def impatient() -> Iterator[KernelExecutor]:
    with KernelExecutor(answer_seconds=1.0) as executor:
        yield executor


@pytest.mark.parametrize("row", ROWS, ids=[row.id for row in ROWS])
def test_packets_go_where_the_catalogue_says(run: CatalogueRun, row: Row) -> None:
    result = run.result(row)
    assert result.is_passed, "\n".join([row.summary, *map(str, result.failures)])


@pytest.mark.parametrize("row", GENERATED, ids=[row.id for row in GENERATED])
def test_the_kernel_does_what_the_specification_says_of_random_clusters(run: CatalogueRun, row: Row) -> None:
    result = run.result(row)
    assert result.is_passed, "\n".join([row.summary, *map(str, result.failures)])


def test_the_kernel_does_what_the_specification_says_when_everything_is_mixed(run: CatalogueRun) -> None:
    results = [result for some in run.pool.run(groups(SYSTEMATIC)) for result in some]
    assert len(results) >= ROWS_MIN
    assert list(report.failures(results)) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_plan_fails_the_same_rows_in_the_kernel_as_by_the_plan(impatient: KernelExecutor, fault: str) -> None:
    """The executor can fail, and the dataplane follows the plan even where the plan is wrong."""
    alter = ALTERATIONS[fault]
    by_plan = {row.id for row in ALTERED_ROWS if not pure.run_row(row, alter).is_passed}
    results = [result for group in groups(ALTERED_ROWS) for result in impatient.run_group(group, alter)]
    assert {result.row.id for result in results if not result.is_passed} == by_plan
    assert by_plan


def test_traffic_that_must_not_fail_is_noticed_when_it_does(run: CatalogueRun) -> None:
    row = next(row for row in ROWS if row.id == "125-IPv4")
    first, emptied, *_ = row.steps
    steady = replace(emptied, steady=first.probes[:1])
    (result,) = run.executor.run_group([replace(row, steps=(first, steady))])
    assert [failure.probe.startswith("steady ") for failure in result.failures] == [True]
    assert "REJECT" in result.failures[0].observed


def test_a_held_connection_that_breaks_is_noticed(run: CatalogueRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that forgets its connections at every step breaks each one that is open."""
    row = next(row for row in ROWS if row.id == "100-IPv4")
    apply = run.executor._apply

    def forgetful(*arguments: Any) -> Any:
        failures = apply(*arguments)
        run.executor._topology.flush_conntrack()
        return failures

    monkeypatch.setattr(run.executor, "_apply", forgetful)
    (result,) = run.executor.run_group([row])
    assert result.failures
    assert all(failure.probe.startswith("held ") for failure in result.failures)


def test_a_refusal_that_does_not_happen_is_a_failure(run: CatalogueRun) -> None:
    row = next(row for row in ROWS if row.id == "133-IPv4")
    idle = replace(row.steps[1], events=())
    (result,) = run.executor.run_group([replace(row, steps=(row.steps[0], idle))])
    assert "no write could be refused" in result.failures[0].observed
    (again,) = run.executor.run_group([row])
    assert again.is_passed


def test_stock_nft_lists_what_the_last_row_left(run: CatalogueRun) -> None:
    run.executor.run_group([ROWS[0]])
    listed = run.executor.node.ruleset()
    assert "table ip pointsman" in listed
    assert "172.30.0.41" in listed
