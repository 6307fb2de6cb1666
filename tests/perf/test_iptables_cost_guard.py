# SPDX-License-Identifier: Apache-2.0
"""Guard of what a change costs in iptables mode: programs run and text given to them, never time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import pytest

from pointsman_enforcer.dataplane.base import Applied
from pointsman_enforcer.dataplane.iptables.backend import IptablesDataplane
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_enforcer.dataplane.xtables.tools import Variant
from pointsman_model.names import parse_prefix
from pointsman_model.plan import ServicePlan
from support.enforcer_plans import FACTS, numbered
from support.netns import NetNs

pytestmark = pytest.mark.root
FEW, MANY = 10, 1_000
SETTINGS = NodeSettings(cluster_cidrs=(parse_prefix("10.0.0.0/8"),))
LEAVES = 256
FRONTEND_BYTES_MAX = 250
"""A frontend's rules in a leaf, and the leaf's own name."""


class Step(NamedTuple):
    """A service, and what it becomes; many of them are one change."""

    index: int
    before: ServicePlan
    after: ServicePlan


@pytest.fixture(params=list(Variant), ids=[variant.value for variant in Variant])
def variant(request: pytest.FixtureRequest) -> Variant:
    found: Variant = request.param
    return found


def applied(variant: Variant, *changes: Sequence[Step]) -> Iterator[Applied]:
    """What each of these changes costs, one after the other."""
    with NetNs("guard") as node:
        dataplane = node.call(partial(IptablesDataplane, node_settings=SETTINGS, variant=variant))

        async def prepare() -> None:
            dataplane.configure(FACTS)
            await dataplane.observe()
            await dataplane.prepare()

        asyncio.run(prepare())
        for steps in changes:
            change = dataplane.diff(b"", b"")
            for _, before, after in steps:
                old = dataplane.render(before, b"")
                change.include(dataplane.diff(old, dataplane.render(after, old)))
            yield asyncio.run(dataplane.apply(change))
        dataplane.close()


def loaded(services: int) -> list[Step]:
    return [Step(index, ServicePlan(), numbered(index)) for index in range(services)]


def test_an_endpoint_that_is_replaced_costs_one_program_and_the_same_text_beside_many_services(
    variant: Variant,
) -> None:
    replaced = [Step(1, numbered(1), numbered(1, first=2))]
    (_, few), (_, many) = (tuple(applied(variant, loaded(size), replaced)) for size in (FEW, MANY))
    assert few == many
    assert many.messages == 1


def test_a_service_that_comes_costs_its_own_rules_and_those_of_its_leaf(variant: Variant) -> None:
    came = [Step(MANY + 1, ServicePlan(), numbered(MANY + 1))]
    few, many = (tuple(applied(variant, loaded(size), came))[1] for size in (FEW, MANY))
    beside = (MANY // LEAVES + 1) * FRONTEND_BYTES_MAX
    assert many.bytes <= few.bytes + beside
    assert many.messages <= 3, "sets, rules, and the set of addresses whose other ports are refused"


def test_changes_that_come_together_are_one_restore(variant: Variant) -> None:
    together = [Step(index, numbered(index), numbered(index, first=2)) for index in range(FEW)]
    one, all_of_them = tuple(applied(variant, loaded(FEW), together[:1], together[1:]))[1:]
    assert (one.messages, all_of_them.messages) == (1, 1)


def test_a_cold_start_is_as_many_programs_as_one_change(variant: Variant) -> None:
    [cold] = applied(variant, loaded(MANY))
    assert cold.messages <= 3


def test_nothing_to_do_runs_nothing(variant: Variant) -> None:
    same = [Step(1, numbered(1), numbered(1))]
    assert tuple(applied(variant, loaded(FEW), same))[1] == Applied(0, 0)
