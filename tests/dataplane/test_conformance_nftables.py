# SPDX-License-Identifier: Apache-2.0
"""Every row of the packet-flow catalogue in a real kernel with real sockets: nftables, both families."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from conformance import generated, generated_affinity, report, systematic
from conformance.alterations import ALTERATIONS
from conformance.executors import pure
from conformance.executors.kernel import KernelExecutor, groups
from conformance.executors.pool import KernelPool
from conformance.model import IpFamily, Row
from conformance.table import all_rows, runnable

pytestmark = [pytest.mark.root, pytest.mark.alone, pytest.mark.timeout(600)]
ROWS = [row for row in runnable(all_rows(), "nftables") if row.check is None]
GENERATED = (*generated.rows(4, seed=2026), *generated_affinity.rows(2, seed=2026))
SYSTEMATIC = tuple(systematic.some_worlds(systematic.covering(), 8))
ROWS_MIN = 1000
FAULTS = ("refusals are exchanged", "masquerade is the opposite", "endpoint ports are off by one")
"""Some; `test_rendered_rules` has all."""
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


@pytest.fixture(scope="module")
def pool() -> Iterator[KernelPool]:
    with KernelPool() as made:
        yield made


@pytest.fixture
def executor(pool: KernelPool) -> KernelExecutor:
    """One of the pool, for tests that look closer."""
    return pool.first


@pytest.fixture(scope="module")
def impatient() -> Iterator[KernelExecutor]:
    with KernelExecutor(answer_seconds=1.0) as executor:
        yield executor


@pytest.mark.parametrize("rows", [ROWS, GENERATED, SYSTEMATIC], ids=["the catalogue", "histories", "everything mixed"])
def test_packets_go_where_the_specification_says(pool: KernelPool, rows: Sequence[Row]) -> None:
    results = [result for some in pool.run(groups(rows)) for result in some]
    assert len(results) == len(rows)
    assert list(report.failures(results)) == []


def test_enough_generated_rows_are_asked_of_the_kernel() -> None:
    assert len(SYSTEMATIC) > ROWS_MIN


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_plan_fails_the_same_rows_in_the_kernel_as_by_the_plan(impatient: KernelExecutor, fault: str) -> None:
    """The executor can fail, and the dataplane follows the plan even where the plan is wrong."""
    alter = ALTERATIONS[fault]
    by_plan = {row.id for row in ALTERED_ROWS if not pure.run_row(row, alter).is_passed}
    results = [result for group in groups(ALTERED_ROWS) for result in impatient.run_group(group, alter)]
    assert {result.row.id for result in results if not result.is_passed} == by_plan
    assert by_plan


def test_traffic_that_must_not_fail_is_noticed_when_it_does(executor: KernelExecutor) -> None:
    row = next(row for row in ROWS if row.id == "125-IPv4")
    first, emptied, *_ = row.steps
    steady = replace(emptied, steady=first.probes[:1])
    (result,) = executor.run_group([replace(row, steps=(first, steady))])
    assert [failure.probe.startswith("steady ") for failure in result.failures] == [True]
    assert "REJECT" in result.failures[0].observed


def test_a_held_connection_that_breaks_is_noticed(executor: KernelExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that forgets its connections at every step breaks each one that is open."""
    row = next(row for row in ROWS if row.id == "100-IPv4")
    apply = executor._apply

    def forgetful(*arguments: Any) -> Any:
        failures = apply(*arguments)
        executor._topology.flush_conntrack()
        return failures

    monkeypatch.setattr(executor, "_apply", forgetful)
    (result,) = executor.run_group([row])
    assert result.failures
    assert all(failure.probe.startswith("held ") for failure in result.failures)


def test_a_refusal_that_does_not_happen_is_a_failure(executor: KernelExecutor) -> None:
    row = next(row for row in ROWS if row.id == "133-IPv4")
    idle = replace(row.steps[1], events=())
    (result,) = executor.run_group([replace(row, steps=(row.steps[0], idle))])
    assert "no write could be refused" in result.failures[0].observed
    (again,) = executor.run_group([row])
    assert again.is_passed


def test_stock_nft_lists_what_the_last_row_left(executor: KernelExecutor) -> None:
    executor.run_group([ROWS[0]])
    listed = executor.node.ruleset()
    assert "table ip pointsman" in listed
    assert "172.30.0.41" in listed
