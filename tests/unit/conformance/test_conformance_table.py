# SPDX-License-Identifier: Apache-2.0
"""The table itself: complete, unambiguous, and the same in both families."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType

import pytest
from conformance import generated, generated_affinity, systematic
from conformance.addresses import twin_address, twin_row
from conformance.model import EVERY_MODE, Disturbance, IpFamily, Outcome, Row
from conformance.table import CATALOGUE, SECTION_TITLES, all_rows, runnable

ROWS = all_rows()
UNUSED_NUMBERS = frozenset(
    {2, 9, 13, 20, 23, 27, 32, 36, 50, 54, 58, 72, 82, 86, 87, 90, 91, 98, 105, 106, 111, 113, 145, 147}
)
OF_OTHER_MODES = frozenset({24, 46, 51, 53, 55, 74, 76, 134, *range(163, 174)})
"""What kube-proxy's other modes do differently; the rest of the catalogue is run."""
NUMBERS = [str(number) for number in range(1, 181) if number not in UNUSED_NUMBERS]
"""The numbered rows of packet-flow.md; 181 is a note about the set-up of a test."""


def number_of(row: Row) -> str:
    return row.number.partition(".")[0]


@pytest.mark.parametrize("family", IpFamily)
def test_every_numbered_row_of_the_catalogue_is_here_in_both_families(family: IpFamily) -> None:
    here = {number_of(row) for row in ROWS if row.family is family}
    assert [number for number in NUMBERS if number not in here] == []


def test_every_row_is_run_by_this_mode_or_says_why_not() -> None:
    listed = [row for row in ROWS if not row.steps and row.check is None]
    assert listed
    assert all(row.later or row.modes != EVERY_MODE for row in listed)
    assert all(row.check or any(step.probes for step in row.steps) for row in runnable(ROWS, "nftables"))


def test_what_is_run_in_nftables_mode_is_the_whole_catalogue_but_for_other_modes() -> None:
    run = {number_of(row) for row in runnable(ROWS, "nftables")}
    missing = {int(number) for number in NUMBERS if number not in run}
    assert missing == OF_OTHER_MODES


def test_every_section_has_a_title() -> None:
    assert {row.section for row in ROWS} == set(SECTION_TITLES) - {generated.SECTION, *systematic.PRODUCTS}


def test_two_rows_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two rows are called 1-IPv4"):
        all_rows([*CATALOGUE, lambda: iter(ROWS[:1])])


def test_another_source_of_rows_joins_the_table() -> None:
    def generated() -> Iterator[Row]:
        yield replace(ROWS[0], number="generated-1")

    assert len(all_rows([*CATALOGUE, generated])) == len(ROWS) + 1


@pytest.mark.parametrize("of", [generated, generated_affinity], ids=["clusters", "session affinity"])
def test_equal_seeds_generate_equal_rows_and_each_outcome_is_among_them(of: ModuleType) -> None:
    first, again = (list(of.rows(40, seed=5)) for _ in range(2))
    assert first == again
    assert len(first) == 80
    assert first != list(of.rows(40, seed=6))
    outcomes = {probe.expect.outcome for row in first for step in row.steps for probe in step.probes}
    disturbances = {step.disturbance for row in first for step in row.steps}
    assert outcomes >= {Outcome.FORWARD, Outcome.REJECT, Outcome.DROP}
    assert disturbances >= {Disturbance.RESTART, Disturbance.CHAIN_FLUSHED}


@pytest.mark.parametrize(
    ("four", "six"),
    [
        ("10.180.2.1", "fd00:10::180:2:1"),
        ("172.30.0.41", "fd00:10:96::41"),
        ("172.30.1.1", "fd00:10:96::1001"),
        ("192.168.0.2", "2001:db8::1"),
        ("1.2.3.4", "2001:db8:1:2:3::4"),
        ("127.0.0.1/32", "::1/128"),
        ("203.0.113.0/25", "2001:db8:203::/112"),
    ],
)
def test_twins_of_addresses_are_exchanged(four: str, six: str) -> None:
    assert twin_address(four) == six
    assert twin_address(six) == four


def test_the_twin_of_a_twin_is_the_row_itself() -> None:
    rows = [row for row in runnable(ROWS, "nftables") if row.family is IpFamily.IPV4 and row.number not in {"42", "48"}]
    assert len(rows) > 300
    for row in rows:
        again = twin_row(twin_row(row))
        assert [step.probes for step in again.steps] == [step.probes for step in row.steps]
        assert _objects(again) == _objects(row)


def _objects(row: Row) -> list[object]:
    """The objects without the spaces that a twin's texts do not keep."""
    return [json.loads(event.manifest.replace('" ', '"')) for step in row.steps for event in step.events]


def test_every_outcome_and_protocol_is_asked_for() -> None:
    probes = [probe for row in runnable(ROWS, "nftables") for step in row.steps for probe in step.probes]
    assert {probe.expect.outcome for probe in probes} == set(Outcome)
    assert {probe.protocol for probe in probes} == {"TCP", "UDP", "SCTP"}
