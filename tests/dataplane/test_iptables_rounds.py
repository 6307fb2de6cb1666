# SPDX-License-Identifier: Apache-2.0
"""What iptables mode programmed is read back in rounds: what no notice tells of is found, put right, and verified."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import pytest

from pointsman_enforcer.dataplane.iptables import rounds
from pointsman_enforcer.dataplane.iptables.backend import IptablesDataplane
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_enforcer.dataplane.xtables.tools import Variant
from pointsman_model.plan import ServicePlan
from support.enforcer_plans import FACTS, load_balancer, numbered
from support.netns import NetNs

pytestmark = pytest.mark.root
PATIENCE_SECONDS = 20.0
PLANS = (load_balancer(), numbered(1), numbered(2))


class Programmed:
    """A dataplane with three services, on a loop of its own; what it notices is counted and mended when asked for."""

    def __init__(self, node: NetNs, variant: Variant) -> None:
        self.node, self.variant = node, variant
        self.dataplane = node.call(partial(IptablesDataplane, node_settings=NodeSettings(), variant=variant))
        self.noticed = 0
        self.renderings: list[bytes] = []

    async def start(self) -> None:
        self.dataplane.configure(FACTS)
        await self.dataplane.observe()
        await self.dataplane.prepare()
        for plan in PLANS:
            await self.program(plan)
        self.dataplane.watch(self._notice)

    async def program(self, plan: ServicePlan, previous: bytes = b"") -> bytes:
        rendering = self.dataplane.render(plan, previous)
        await self.dataplane.apply(self.dataplane.diff(previous, rendering))
        self.renderings.append(rendering)
        return rendering

    async def verified(self) -> list[int]:
        """How many records of each service differ, once that is known."""
        read_back = self.dataplane.read_back
        found = []
        for rendering in self.renderings:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while (read := read_back(rendering, 0, 1000)) is None:
                assert time.monotonic() < deadline, "nothing was read"
                await asyncio.sleep(0.05)
            found.append(read.differing)
        return found

    async def mended(self) -> int:
        """How many objects are put right after the next notice."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.noticed:
            assert time.monotonic() < deadline, "nothing was noticed"
            await asyncio.sleep(0.05)
        self.noticed = 0
        return (await self.dataplane.mend(self.renderings, may_remove=True)).objects

    def _notice(self) -> None:
        self.noticed += 1


@pytest.fixture
def node() -> Iterator[NetNs]:
    with NetNs("rounds") as made:
        yield made


@pytest.fixture(params=list(Variant), ids=[variant.value for variant in Variant])
def variant(request: pytest.FixtureRequest) -> Variant:
    found: Variant = request.param
    return found


def run(node: NetNs, variant: Variant, steps: Callable[[Programmed], Awaitable[None]]) -> None:
    async def main() -> None:
        world = Programmed(node, variant)
        try:
            await world.start()
            await steps(world)
        finally:
            world.dataplane.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "REST_PER_WORK", 1.0)  # or a machine with much else to do rests for a minute
        asyncio.run(main())


def rules_of(world: Programmed) -> str:
    text = world.node.run(f"iptables-{world.variant.value}-save", "-t", "nat")
    return "\n".join(line for line in text.splitlines() if line.startswith("-A"))


def test_what_is_programmed_is_found_as_it_was_written(node: NetNs, variant: Variant) -> None:
    async def steps(world: Programmed) -> None:
        assert await world.verified() == [0, 0, 0]
        assert not world.noticed

    run(node, variant, steps)


def test_what_was_read_before_a_change_says_nothing_about_it(node: NetNs, variant: Variant) -> None:
    async def steps(world: Programmed) -> None:
        await world.verified()
        rendering = await world.program(numbered(3))
        assert world.dataplane.read_back(rendering, 0, 1000) is None
        assert world.dataplane.read_back(world.renderings[0], 0, 1000) is not None
        assert await world.verified() == [0, 0, 0, 0]

    run(node, variant, steps)


def test_changes_without_pause_are_never_taken_for_drift(node: NetNs, variant: Variant) -> None:
    async def steps(world: Programmed) -> None:
        deadline = time.monotonic() + 2.0
        previous, toggle = world.renderings[1], 0
        while time.monotonic() < deadline:
            toggle = 1 - toggle
            world.dataplane.read_back(world.renderings[0], 0, 1000)
            previous = await world.program(ServicePlan() if toggle else numbered(1), previous)
            world.renderings.pop()
        assert world.dataplane._rounds.count > 0
        assert not world.noticed

    run(node, variant, steps)


def test_an_element_that_somebody_else_takes_out_is_put_back(node: NetNs, variant: Variant) -> None:
    async def steps(world: Programmed) -> None:
        await world.verified()
        before = world.node.run("ipset", "save", "pointsman-vips4")
        world.node.run("ipset", "flush", "pointsman-vips4")
        world.node.run("ipset", "add", "pointsman-vips4", "9.9.9.9")
        assert await world.mended() == 1 + before.count("\nadd ")
        assert sorted(world.node.run("ipset", "save", "pointsman-vips4").splitlines()) == sorted(before.splitlines())
        assert await world.verified() == [0, 0, 0]

    run_quickly(node, variant, steps)


def run_quickly(node: NetNs, variant: Variant, steps: Callable[[Programmed], Awaitable[None]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "PERIOD_SECONDS", 0.2)
        run(node, variant, steps)


def test_a_rule_swapped_for_one_of_the_same_size_is_put_right() -> None:
    """Of nft, the kernel tells; legacy tables look as before to who only counts."""

    async def steps(world: Programmed) -> None:
        await world.verified()
        before = rules_of(world)
        chain, place = re.findall(r"^-A (POINTSMAN-E-\S+) .*--to-destination (\S+)$", before, re.MULTILINE)[0]
        tool = "iptables-legacy"
        world.node.run(
            tool, "-t", "nat", "-R", chain, "1", "-p", "tcp", "-j", "DNAT", "--to-destination", "10.9.9.9:9999"
        )
        assert place not in rules_of(world) or before != rules_of(world)
        assert await world.mended() == 1
        assert rules_of(world) == before

    with NetNs("swap") as node:
        run_quickly(node, Variant.LEGACY, steps)


def test_a_tool_that_prints_otherwise_is_found_out_and_repairs_end(node: NetNs, variant: Variant) -> None:
    """Somebody who writes the same after each repair looks alike: sizes and notices still tell of that."""

    async def steps(world: Programmed) -> None:
        await world.verified()
        tools = world.dataplane._tools
        save = tools.save_blocking
        tools.save_blocking = lambda family: save(family).replace("-j DNAT", "-j  DNAT")  # type: ignore[method-assign]  # prints otherwise
        rendering = await world.program(numbered(4))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while world.dataplane._rounds.is_readable:
            assert time.monotonic() < deadline, "it went on and on"
            world.dataplane.read_back(rendering, 0, 1000)
            if world.noticed:
                await world.mended()
            await asyncio.sleep(0.05)
        assert world.dataplane.read_back(await world.program(numbered(5)), 0, 1000) is None

    run_quickly(node, variant, steps)


def test_asking_again_and_again_makes_one_read_at_a_time(node: NetNs, variant: Variant) -> None:
    """A read takes longer than the pause between two questions beside many services."""

    async def steps(world: Programmed) -> None:
        tools = world.dataplane._tools
        let_go, names, asked = threading.Event(), tools.ipset_names, [0]

        def slowly() -> list[str]:
            asked[0] += 1
            assert let_go.wait(PATIENCE_SECONDS)
            return names()

        tools.ipset_names = slowly  # type: ignore[method-assign]  # takes as long as it is told to
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not asked[0]:
            assert time.monotonic() < deadline
            world.dataplane.read_back(world.renderings[0], 0, 1000)
            await asyncio.sleep(0.01)
        for _ in range(50):
            assert world.dataplane.read_back(world.renderings[0], 0, 1000) is None
            await asyncio.sleep(0.01)
        let_go.set()
        assert await world.verified() == [0, 0, 0]
        assert asked[0] <= 2

    run(node, variant, steps)
