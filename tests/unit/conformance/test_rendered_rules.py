# SPDX-License-Identifier: Apache-2.0
"""Every row of the catalogue by the rules that the nftables dataplane renders; and wrong rules are noticed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from conformance import report
from conformance.alterations import ALTERATIONS
from conformance.executors import pure
from conformance.executors.kernel import groups
from conformance.executors.rendered.executor import RenderedExecutor
from conformance.model import IpFamily, Row
from conformance.table import all_rows, runnable

from support.fake_nftables import FakeTable, Tables

ROWS = [row for row in runnable(all_rows(), "nftables") if row.check is None]
SECTIONS = sorted({row.section for row in ROWS})
PLAIN = [row for row in ROWS if not row.needs_dataplane]
FEW = [row for row in PLAIN if row.section in {1, 3, 4, 5, 10} and row.number != "13d" and row.family is IpFamily.IPV4]
"""Enough for every damage to show. Not the endpoint that is this host: a mark for masquerade has no effect there."""
AFFINITY = [row for row in ROWS if row.section == 15]


@pytest.fixture(scope="module")
def executor() -> Iterator[RenderedExecutor]:
    with RenderedExecutor() as one:
        yield one


@pytest.mark.parametrize("section", SECTIONS)
def test_the_rules_send_packets_where_the_catalogue_says(executor: RenderedExecutor, section: int) -> None:
    rows = [row for row in ROWS if row.section == section]
    results = [result for group in groups(rows) for result in executor.run_group(group)]
    assert len(results) == len(rows)
    assert list(report.failures(results)) == []


@pytest.mark.parametrize("fault", ALTERATIONS)
def test_a_wrong_plan_fails_the_same_rows_by_the_rules_as_by_the_plan(fault: str) -> None:
    alter = ALTERATIONS[fault]
    with RenderedExecutor() as executor:
        results = [result for group in groups(FEW) for result in executor.run_group(group, alter)]
    by_plan = {row.id for row in FEW if not pure.run_row(row, alter).is_passed}
    assert {result.row.id for result in results if not result.is_passed} == by_plan
    assert by_plan


def _without_elements(name: str) -> Callable[[FakeTable], None]:
    return lambda table: table.sets[name].clear()


def _without_rules(chain: str) -> Callable[[FakeTable], None]:
    return lambda table: table.chains[chain].clear()


def _without_rule(chain: str, number: int) -> Callable[[FakeTable], None]:
    return lambda table: table.chains[chain].__delitem__(number)


def _without_one(name: str) -> Callable[[FakeTable], None]:
    def damage(table: FakeTable) -> None:
        for place in list(table.sets[name])[:1]:
            del table.sets[name][place]

    return damage


def _without_hook(hook: int) -> Callable[[FakeTable], None]:
    return lambda table: table.hooks.__delitem__(hook)


def _exchange_endpoints(table: FakeTable) -> None:
    """Each endpoint's port is another one."""
    elements = table.sets["endpoints"]
    for place, element in list(elements.items()):
        elements[place] = element._replace(data=element.data[:-4] + b"\0\1\0\0")


DAMAGES: dict[str, Callable[[FakeTable], None]] = {
    "an element of service_ips is missing": _without_one("service_ips"),
    "an element of endpoints is missing": _without_one("endpoints"),
    "endpoints lead elsewhere": _exchange_endpoints,
    "nothing is seen before routing": _without_hook(0),
    "nothing of the host's own is seen": _without_hook(3),
    **{
        f"{name} is empty": _without_elements(name)
        for name in (
            "service_ips_from_pod",
            "service_ips_from_host",
            "service_nodeports",
            "nodeport_endpoints",
            "cluster_ips",
            "service_cidrs",
            "nodeport_addresses",
            "firewalled",
            "allowed_sources",
            "hairpin",
        )
    },
    **{
        f"{chain} is empty": _without_rules(chain)
        for chain in ("mark-for-masquerade", "reject-traffic", "drop-traffic", "nat-output", "nat-postrouting")
    },
    "not everybody is masqueraded to cluster IPs": _without_rule("services", 0),
}
AFFINITY_DAMAGES: dict[str, Callable[[FakeTable], None]] = {
    "nobody is remembered": _without_elements("affinity"),
    "a pick is missing": _without_one("affinity_picks"),
    "the borrowed priority is kept": _without_rule("nat-postrouting", 0),
    "an endpoint with affinity is missing": _without_one("affinity_endpoints"),
}


def _failed(rows: list[Row], damage: Callable[[FakeTable], None]) -> list[str]:
    def damaged(tables: Tables) -> Tables:
        changed = {where: table.copy() for where, table in tables.items()}
        for table in changed.values():
            damage(table)
        return changed

    with RenderedExecutor(damaged) as executor:
        results = [result for group in groups(rows) for result in executor.run_group(group)]
    return [result.row.id for result in results if not result.is_passed]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_rules_are_noticed(damage: str) -> None:
    assert _failed(FEW, DAMAGES[damage])


@pytest.mark.parametrize("damage", AFFINITY_DAMAGES)
def test_damaged_rules_of_session_affinity_are_noticed(damage: str) -> None:
    assert _failed(AFFINITY, AFFINITY_DAMAGES[damage])


def test_a_rule_that_nobody_understands_fails_every_row_that_meets_it() -> None:
    def damage(table: FakeTable) -> None:
        (name,) = table.chains["nat-prerouting"][0][0]._replace(name="quota")[:1]
        first = table.chains["nat-prerouting"][0][0]._replace(name=name)
        table.chains["nat-prerouting"].insert(0, (first,))

    from_host = {row.id for row in FEW if all(probe.origin.value == "host" for probe in row.steps[0].probes)}
    assert set(_failed(FEW, damage)) == {row.id for row in FEW} - from_host
