# SPDX-License-Identifier: Apache-2.0
"""Every row of the catalogue by the rules that the iptables dataplane renders; and wrong rules are noticed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from copy import deepcopy

import pytest
from conformance import report
from conformance.executors.kernel import groups
from conformance.executors.rendered.iptables import IptablesRenderedExecutor
from conformance.executors.rendered.iptables_rules import parsed
from conformance.executors.rendered.packet import UnknownRuleError
from conformance.model import IpFamily
from conformance.table import all_rows, runnable

from pointsman_enforcer.dataplane.exec import CommandError
from pointsman_model.names import Family
from support.fake_xtables import FakeXtables

ROWS = [row for row in runnable(all_rows(), "iptables") if row.check is None]
SECTIONS = sorted({row.section for row in ROWS})
FEW = [row for row in ROWS if row.section in {1, 3, 4, 5, 10} and row.family is IpFamily.IPV4]
"""Enough for every damage to show."""


@pytest.fixture(scope="module")
def executor() -> Iterator[IptablesRenderedExecutor]:
    with IptablesRenderedExecutor() as one:
        yield one


@pytest.mark.parametrize("section", SECTIONS)
def test_the_rules_send_packets_where_the_catalogue_says(executor: IptablesRenderedExecutor, section: int) -> None:
    rows = [row for row in ROWS if row.section == section]
    results = [result for group in groups(rows) for result in executor.run_group(group)]
    assert len(results) == len(rows)
    assert list(report.failures(results)) == []


def _edited(pattern: str, replacement: str | None) -> Callable[[FakeXtables], FakeXtables]:
    """Each rule that reads so reads otherwise, or is gone."""

    def damage(host: FakeXtables) -> FakeXtables:
        copied = deepcopy(host)
        for tables in copied.tables.values():
            for table in tables.values():
                for chain, rules in table.items():
                    kept = [rule for rule in rules if replacement is not None or not re.search(pattern, rule)]
                    table[chain] = [re.sub(pattern, replacement or "", rule) for rule in kept]
        return copied

    return damage


def _emptied(name: str) -> Callable[[FakeXtables], FakeXtables]:
    def damage(host: FakeXtables) -> FakeXtables:
        copied = deepcopy(host)
        copied.sets[name].elements.clear()
        return copied

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        _edited(r"-j DNAT", None),
        _edited(r"--to-destination (\S+):\d+", r"--to-destination \1:9"),
        _edited(r"--probability \S+", "--probability 0.70000000000"),
        _edited(r"-g POINTSMAN-MASQUERADE", None),
        _edited(r"-j POINTSMAN-MARK", None),
        _edited(r"-g POINTSMAN-DROP", "-g POINTSMAN-REJECT"),
        _edited(r"-j REJECT", None),
        _edited(r"--src-type LOCAL", "--dst-type LOCAL"),
        _edited(r"-j POINTSMAN-V-\S$", None),
        _edited(r"-j POINTSMAN-P-\S+", None),
        _edited(r"-j POINTSMAN-SERVICES", None),
        _edited(r"--set-xmark 0x4000/0x0", "--set-xmark 0x0/0x0"),
        _emptied("pointsman-vips4"),
        _emptied("pointsman-closed4"),
        _emptied("pointsman-limited4"),
        _emptied("pointsman-allowed4"),
        _emptied("pointsman-hairpin4"),
        _emptied("pointsman-nodes4"),
    ],
)
def test_wrong_rules_and_sets_fail_rows(damage: Callable[[FakeXtables], FakeXtables]) -> None:
    with IptablesRenderedExecutor(damage) as executor:
        results = (result for group in groups(FEW) for result in executor.run_group(group))
        assert not all(result.is_passed for result in results)


def test_a_rule_that_is_not_understood_fails_every_row_that_meets_it() -> None:
    with IptablesRenderedExecutor(_edited(r"^-m mark", "-m recent --rcheck -m mark")) as executor:
        results = [result for group in groups(FEW) for result in executor.run_group(group)]
    failures = [failure for result in results for failure in result.failures]
    assert failures
    assert all("nobody knows" in failure.observed for failure in failures)


@pytest.mark.parametrize(
    "rule", ["-m recent --name x -j DROP", "-p tcp --sport 80", "-m statistic --mode nth --every 3"]
)
def test_words_that_are_not_known_are_errors(rule: str) -> None:
    with pytest.raises(UnknownRuleError):
        parsed(rule)


def test_a_restore_that_is_refused_changes_nothing() -> None:
    host = FakeXtables()
    before = deepcopy(host)
    for text in (
        "*nat\n:MINE - [0:0]\n-A MINE -j OTHER-CHAIN\nCOMMIT\n",
        "*nat\n:MINE - [0:0]\n-A MINE -m set --match-set gone src\nCOMMIT\n",
        "*nat\n-X MINE\nCOMMIT\n",
    ):
        with pytest.raises(CommandError):
            host.restore(Family.IPV4, text)
    assert host == before
