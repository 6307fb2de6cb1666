# SPDX-License-Identifier: Apache-2.0
"""The judge of generated rows: it says what the hand-written catalogue says, and knows nothing of the planner."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest
from conformance import generated, generated_affinity, oracle, systematic
from conformance.build import NONE
from conformance.executors import pure
from conformance.executors.kernel import groups
from conformance.executors.rendered.executor import RenderedExecutor
from conformance.model import Outcome, Row
from conformance.table import all_rows, runnable

SESSION_AFFINITY = 15
"""A choice that depends on earlier ones: its rows foretell it by themselves."""
ROWS = [row for row in runnable(all_rows(), "nftables") if row.check is None and row.section != SESSION_AFFINITY]

COVERING = list(systematic.covering())


def blank(row: Row) -> Row:
    """The row without its expectations."""
    steps = (replace(step, probes=tuple(one._replace(expect=NONE) for one in step.probes)) for step in row.steps)
    return replace(row, steps=tuple(steps))


@pytest.mark.parametrize("section", sorted({row.section for row in ROWS}))
def test_the_oracle_says_what_the_catalogue_says(section: int) -> None:
    for row in (row for row in ROWS if row.section == section):
        judged = oracle.judge(blank(row))
        assert [step.probes for step in judged.steps] == [step.probes for step in row.steps], row.id


@pytest.mark.parametrize("module", ["oracle", "oracle_endpoints", "oracle_addresses"])
def test_the_oracle_shares_nothing_with_what_it_judges(module: str) -> None:
    path = Path(oracle.__file__).with_name(f"{module}.py")
    imported = {
        name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [each.name for each in node.names]
            if isinstance(node, ast.Import)
            else []
        )
    }
    assert imported
    assert not [name for name in imported if name.startswith("pointsman") or "executors" in name]


def test_each_two_values_of_any_two_factors_meet_in_some_world() -> None:
    covered = {
        pair
        for world, cells in systematic.covering_worlds(2026)
        for cell in cells
        for pair in systematic.pairs((*cell, *world))
    }
    assert systematic.all_pairs() <= covered


def test_generated_rows_are_the_same_each_time_and_enough_for_a_kernel() -> None:
    assert list(systematic.covering()) == COVERING
    assert len(list(systematic.for_kernel(COVERING))) >= 1000
    assert len({row.id for row in COVERING}) == len(COVERING)
    outcomes = {row.steps[0].probes[0].expect.outcome for row in COVERING}
    assert outcomes == set(Outcome)


def test_a_kernel_is_asked_a_fixed_part_of_each_product() -> None:
    rows = list(systematic.others())
    chosen = list(systematic.for_kernel(rows))
    assert chosen == list(systematic.for_kernel(rows))
    assert len(rows) // 20 < len(chosen) < len(rows) // 5


SAMPLE = [*systematic.some_worlds(COVERING, 5), *generated.rows(10, seed=2026), *generated_affinity.rows(5, seed=2026)]
"""Whole worlds, as a world costs more than to ask it something."""


def test_the_plan_of_generated_clusters_is_what_the_specification_says() -> None:
    plain = [row for row in SAMPLE if not row.needs_dataplane]
    results = [result for group in groups(plain) for result in pure.run_group(group)]
    assert [str(failure) for result in results for failure in result.failures] == []


def test_the_rules_of_generated_clusters_are_what_the_specification_says() -> None:
    with RenderedExecutor() as executor:
        results = [result for group in groups(SAMPLE) for result in executor.run_group(group)]
    assert [str(failure) for result in results for failure in result.failures] == []
