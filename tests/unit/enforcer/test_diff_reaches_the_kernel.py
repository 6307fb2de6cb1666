# SPDX-License-Identifier: Apache-2.0
"""Whatever plans follow each other, the kernel ends with exactly what a fresh start with the last ones would have."""

from __future__ import annotations

import asyncio
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman_enforcer.dataplane.base import Found
from pointsman_enforcer.dataplane.nftables.backend import NftablesDataplane
from pointsman_enforcer.dataplane.nftables.change import diff
from pointsman_enforcer.dataplane.nftables.message import Family as NftFamily
from pointsman_enforcer.dataplane.nftables.render import RenderContext, render_service
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_model.names import Family, parse_prefix
from pointsman_model.plan import ServicePlan
from support.enforcer_plans import FACTS, load_balancer, numbered, service_plans
from support.fake_nftables import FakeNftables

SETTINGS = NodeSettings(cluster_cidrs=(parse_prefix("10.0.0.0/8"), parse_prefix("fd00:10::/64")))
CONTEXT = RenderContext(detects=frozenset(Family))
OWNERS = 3
plans = st.tuples(*(st.one_of(st.just(ServicePlan()), service_plans(owner)) for owner in range(OWNERS)))


def slots_forgotten(kernel: FakeNftables) -> dict[object, object]:
    """The kernel's state as far as it must be the same: which slot an endpoint stands in may differ, and which number a
    port with session affinity has."""
    elements = kernel.elements()
    ports: dict[tuple[NftFamily, int], list[bytes]] = {}
    for (family, _, name), found in elements.items():
        if name in {"affinity_ids", "affinity_nodeport_ids"}:
            for element in sorted(found):
                ports.setdefault((family, number(element.data) >> 16), []).append(element.key)

    def renamed(family: NftFamily, value: bytes) -> object:
        return sorted(ports[family, number(value) >> 16]), number(value) & 0xFFFF

    state: dict[object, object] = {}
    for where, found in elements.items():
        family, _, name = where
        if name in {"endpoints", "nodeport_endpoints"}:
            state[where] = sorted((element.key[:-4], element.data) for element in found)
        elif name in {"affinity_ids", "affinity_nodeport_ids"}:
            state[where] = {element.key: renamed(family, element.data) for element in found}
        elif name == "affinity_picks":
            state[where] = sorted(
                (renamed(family, each.key[:4]), each.key[4:], renamed(family, each.data)) for each in found
            )
        elif name.startswith("affinity_"):
            state[where] = sorted((each.key[:4], renamed(family, each.key[4:]), each.data) for each in found)
        else:
            state[where] = found
    return state


def number(value: bytes) -> int:
    return int.from_bytes(value, sys.byteorder)


async def fresh(kernel: FakeNftables) -> NftablesDataplane:
    dataplane = NftablesDataplane(node_settings=SETTINGS, kernel=kernel)
    dataplane.configure(FACTS)
    await dataplane.observe()
    await dataplane.prepare()
    return dataplane


async def play(history: list[tuple[ServicePlan, ...]], *, one_batch: bool) -> FakeNftables:
    kernel = FakeNftables()
    dataplane = await fresh(kernel)
    held = [b""] * OWNERS
    for state in history:
        total = dataplane.diff(b"", b"")
        for owner, plan in enumerate(state):
            rendering = dataplane.render(plan, held[owner])
            change = dataplane.diff(held[owner], rendering)
            held[owner] = rendering
            if one_batch:
                total.include(change)
            else:
                await dataplane.apply(change)
        await dataplane.apply(total)
    return kernel


@settings(max_examples=80, deadline=None)
@given(history=st.lists(plans, min_size=1, max_size=4), one_batch=st.booleans())
def test_kernel_equals_a_fresh_start_with_the_last_plans(
    history: list[tuple[ServicePlan, ...]], one_batch: bool
) -> None:
    played = asyncio.run(play(history, one_batch=one_batch))
    direct = asyncio.run(play(history[-1:], one_batch=False))
    assert slots_forgotten(played) == slots_forgotten(direct)


@settings(max_examples=50, deadline=None)
@given(before=plans, after=plans)
def test_adoption_of_any_kernel_state_ends_in_the_same_state(
    before: tuple[ServicePlan, ...], after: tuple[ServicePlan, ...]
) -> None:
    async def restart() -> FakeNftables:
        kernel = await play([before], one_batch=True)
        dataplane = NftablesDataplane(node_settings=SETTINGS, kernel=kernel)
        dataplane.configure(FACTS)
        assert await dataplane.observe() is Found.OURS
        await dataplane.prepare()
        for plan in after:
            previous = dataplane.claim(plan, b"")
            await dataplane.apply(dataplane.diff(previous, dataplane.render(plan, previous)))
        for leftover in dataplane.leftover():
            await dataplane.apply(leftover)
        return kernel

    assert slots_forgotten(asyncio.run(restart())) == slots_forgotten(asyncio.run(play([after], one_batch=False)))


@settings(max_examples=50, deadline=None)
@given(before=plans)
def test_adopting_what_is_already_right_sends_nothing(before: tuple[ServicePlan, ...]) -> None:
    async def restart() -> int:
        kernel = await play([before], one_batch=True)
        commits = kernel.counters.commits
        dataplane = await fresh(kernel)
        for plan in before:
            previous = dataplane.claim(plan, b"")
            await dataplane.apply(dataplane.diff(previous, dataplane.render(plan, previous)))
        assert list(dataplane.leftover()) == []
        return kernel.counters.commits - commits

    assert asyncio.run(restart()) == 0


@given(plan=service_plans(1))
def test_rendering_is_deterministic_and_stable(plan: ServicePlan) -> None:
    rendering = render_service(plan, b"", CONTEXT)
    assert render_service(plan, b"", CONTEXT) == rendering
    assert render_service(plan, rendering, CONTEXT) == rendering
    assert diff(rendering, rendering).is_empty


def test_replacing_one_endpoint_costs_two_element_operations() -> None:
    before = render_service(numbered(1), b"", CONTEXT)
    shifted = numbered(1, first=2)  # endpoint 1 leaves, endpoint 11 comes
    change = diff(before, render_service(shifted, before, CONTEXT))
    assert change.operations == 2
    assert [len(found) for found in change.removals.values()] == [1]
    assert [len(found) for found in change.additions.values()] == [1]


def test_no_plan_renders_to_nothing_and_back() -> None:
    rendering = render_service(load_balancer(), b"", CONTEXT)
    change = diff(b"", rendering)
    change.include(diff(rendering, render_service(ServicePlan(), rendering, CONTEXT)))
    assert all(count == 0 for counts in change.claims.values() for count in counts.values())
