# SPDX-License-Identifier: Apache-2.0
"""Rows of the catalogue that are not about packets, each by the part of the product that it is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from conformance.executors.component import ComponentExecutor
from conformance.model import Finding, Row, RowResult
from conformance.table import all_rows, runnable

from pointsman_enforcer.core.stale_flows import FlowIndex
from pointsman_enforcer.health import service_health

pytestmark = pytest.mark.root
ROWS = [row for row in runnable(all_rows(), "nftables") if row.check is not None]


@pytest.fixture(scope="module")
def executor() -> Iterator[ComponentExecutor]:
    with ComponentExecutor() as made:
        yield made


def run(executor: ComponentExecutor, number: str) -> RowResult:
    (result,) = executor.run_group([next(row for row in ROWS if row.id == f"{number}-IPv4")])
    return result


@pytest.mark.parametrize("row", ROWS, ids=[row.id for row in ROWS])
def test_the_product_does_what_the_catalogue_says(executor: ComponentExecutor, row: Row) -> None:
    (result,) = executor.run_group([row])
    assert result.is_passed, "\n".join([row.summary, *map(str, result.failures)])


def _every_time_counts(patch: pytest.MonkeyPatch) -> None:
    from conformance.checks import timestamps  # noqa: PLC0415 - patched here and nowhere else

    right = timestamps.programming_times
    patch.setattr(
        timestamps, "programming_times", lambda origins, **rest: right(origins, **{**rest, "started_at_ns": 0})
    )


def _always_well(patch: pytest.MonkeyPatch) -> None:
    right = service_health.health_answer
    patch.setattr(service_health, "health_answer", lambda key, count, is_healthy: right(key, count, is_healthy=True))


def _says(is_stale: bool) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(FlowIndex, "is_stale", lambda *_: is_stale)


FAULTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], set[str]]] = {
    "changes before the process began count": (_every_time_counts, {"138"}),
    "an unhealthy proxy says it is well": (_always_well, {"142"}),
    "no flow is stale": (_says(is_stale=False), {"148", "150", "151", "153", "154"}),
    "every flow that is looked at is stale": (_says(is_stale=True), {"148", "154"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_product_fails_its_rows(
    executor: ComponentExecutor, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install, numbers = FAULTS[fault]
    install(monkeypatch)
    assert {number for number in sorted(numbers) if not run(executor, number).is_passed} == numbers


def test_a_mark_that_stays_is_noticed(executor: ComponentExecutor) -> None:
    node = executor.kernel.node
    marking = "type filter hook postrouting priority 105; meta mark set 0x4000;"
    node.run("nft", "-f", "-", stdin=f"table inet marker {{ chain c {{ {marking} }}; }}")
    try:
        failures = run(executor, "174").failures
    finally:
        node.run("nft", "delete", "table", "inet", "marker")
    assert [failure.probe for failure in failures] == ["packets with the mark after"]


def test_damage_to_the_rules_of_others_is_noticed(executor: ComponentExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    cleanup = executor.kernel.cleanup

    def too_much() -> None:
        executor.kernel.node.run("nft", "flush", "set", "inet", "pointsmanlike", "blocked")
        cleanup()

    monkeypatch.setattr(executor.kernel, "cleanup", too_much)
    failures = run(executor, "175").failures
    assert [failure.probe for failure in failures] == ["rules of others after the clean-up"]


def _raising(*_: Any) -> Iterator[Finding]:
    raise OSError(1, "no")


@pytest.mark.parametrize(
    ("check", "observed"),
    [
        (lambda *_: [], "nothing"),
        (lambda *_: [Finding("one", "1", "1"), Finding("other", "1", "2")], "2"),
        (_raising, "PermissionError: [Errno 1] no"),
    ],
    ids=["nothing compared", "one differs", "it breaks"],
)
def test_a_check_can_fail(executor: ComponentExecutor, check: Any, observed: str) -> None:
    (result,) = executor.run_group([replace(ROWS[0], check=check)])
    assert [failure.observed for failure in result.failures] == [observed]
