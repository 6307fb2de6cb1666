# SPDX-License-Identifier: Apache-2.0
"""The reconciler and drift, on a kernel in memory: when it looks, what it tells, what it does when that is refused."""

from __future__ import annotations

import errno

import pytest

from pointsman_chassis.clock import VirtualClock
from pointsman_chassis.errors import ApplyError
from pointsman_enforcer.core.plan_session import Commit, Programmed
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.dataplane.drift import DriftLook, DriftOutcome
from pointsman_enforcer.dataplane.nftables.backend import NftablesDataplane
from pointsman_enforcer.dataplane.nftables.change import NftChange
from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_enforcer.dataplane.nftables.notifications import Touched
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_enforcer.dataplane.reconciler import Reconciler
from support.enforcer_plans import key, numbered, whole
from support.fake_monitor import FakeMonitor
from support.fake_nftables import FakeNftables

V4 = Family.IPV4
ENDPOINTS = (V4, "pointsman", "endpoints")


class World:
    """A kernel, an enforcer's core, and somebody else."""

    def __init__(self) -> None:
        self.kernel, self.monitor, self.clock = FakeNftables(), FakeMonitor(), VirtualClock()
        self.reports: list[Programmed] = []
        self.looks: list[DriftLook] = []
        self.requests = 0
        self.store = PlanStore()
        dataplane = NftablesDataplane(node_settings=NodeSettings(), kernel=self.kernel, monitor=self.monitor)
        self.reconciler: Reconciler[NftChange] = Reconciler(
            dataplane=dataplane,
            store=self.store,
            clock=self.clock,
            on_synced=lambda _pending, programmed, _tally: self.reports.append(programmed),
        )
        self.reconciler.drift.watch(request=self._request, on_look=self.looks.append)
        transaction = whole({key(each): numbered(each) for each in range(4)})
        changes = tuple(self.store.apply(transaction))
        self.reconciler.commit(Commit(transaction, changes, True), stream=None, received_at=0, received_ns=0)

    def _request(self) -> None:
        self.requests += 1

    def lose_an_endpoint(self) -> None:
        elements = self.kernel.tables[V4, "pointsman"].sets["endpoints"]
        elements.pop(next(iter(elements)))
        self.monitor.tell(Touched(kinds={"element"}, sets={(V4, "endpoints")}, process="nft", process_id=7))


async def test_an_element_lost_is_put_back_and_reported_without_a_transaction() -> None:
    world = World()
    await world.reconciler.run()
    before, dumps = world.kernel.elements(), world.kernel.counters.dumps
    world.lose_an_endpoint()
    await world.clock.advance(0.03)
    assert world.requests == 1
    await world.reconciler.run()
    assert world.kernel.elements() == before
    assert world.kernel.counters.dumps == dumps + 1
    report = world.reports[-1]
    assert report.nonce == 0
    assert report.drift is not None
    assert (report.drift.repairs, report.drift.objects, report.drift.process) == (1, 1, "nft")
    assert [look.outcome for look in world.looks] == [DriftOutcome.REPAIRED]


async def test_a_sync_before_the_repair_is_due_leaves_it_for_later() -> None:
    world = World()
    await world.reconciler.run()
    world.lose_an_endpoint()
    await world.reconciler.run()
    assert world.looks == []
    await world.clock.advance(0.03)
    await world.reconciler.run()
    assert len(world.looks) == 1


async def test_what_was_touched_before_the_first_reading_is_looked_at_after_it() -> None:
    world = World()
    world.monitor.tell(Touched(kinds={"rule"}, structure={V4}, chains={(V4, "services")}))
    await world.clock.advance(0.03)
    await world.reconciler.run()
    assert world.looks == []
    await world.clock.advance(0.03)
    assert world.requests == 2
    await world.reconciler.run()
    assert [look.kinds for look in world.looks] == [("rule",)]


async def test_a_touch_that_changed_nothing_is_counted_and_not_reported() -> None:
    world = World()
    await world.reconciler.run()
    reports = len(world.reports)
    world.monitor.tell(Touched(kinds={"element"}, sets={(V4, "endpoints")}))
    await world.clock.advance(0.03)
    await world.reconciler.run()
    assert [look.outcome for look in world.looks] == [DriftOutcome.UNCHANGED]
    assert world.reconciler.drift.report is None
    assert len(world.reports) == reports


async def test_a_table_lost_is_made_anew_from_what_is_remembered() -> None:
    world = World()
    await world.reconciler.run()
    before, dumps = world.kernel.elements(), world.kernel.counters.dumps
    del world.kernel.tables[V4, "pointsman"]
    world.monitor.tell(Touched(kinds={"table"}, deleted={V4}, structure={V4}))
    await world.clock.advance(0.03)
    await world.reconciler.run()
    assert world.kernel.elements() == before
    assert world.kernel.counters.dumps == dumps
    assert [look.outcome for look in world.looks] == [DriftOutcome.REBUILT]


async def test_when_mending_is_refused_twice_the_tables_are_replaced_with_everything_in_them() -> None:
    world = World()
    await world.reconciler.run()
    before = world.kernel.elements()
    world.kernel.refuse = lambda message: errno.EEXIST if message.what.startswith("set policy of") else 0
    world.monitor.tell(Touched(kinds={"chain"}, structure={V4}, chains={(V4, "nat-output")}))
    refusals = 0
    while not any(message.what.startswith("delete table") for message in world.kernel.batches[-1].messages):
        assert refusals < 3, "two refusals are enough"
        await world.clock.advance(1)
        try:
            await world.reconciler.run()
        except ApplyError as error:
            refusals += "mending our tables" in str(error)
    assert refusals == 2
    assert world.kernel.elements() == before


async def test_services_that_failed_because_of_drift_are_tried_again_with_the_repair() -> None:
    world = World()
    await world.reconciler.run()
    elements = world.kernel.tables[V4, "pointsman"].sets["endpoints"]
    elements.clear()
    transaction = whole({key(each): numbered(each, first=2) for each in range(4)}, nonce=2)
    changes = tuple(world.store.apply(transaction))
    world.reconciler.commit(Commit(transaction, changes, True), stream=None, received_at=0, received_ns=0)
    with pytest.raises(ApplyError):
        await world.reconciler.run()
    assert len(world.reconciler.failures) == 4
    world.monitor.tell(Touched(kinds={"element"}, sets={(V4, "endpoints")}))
    await world.clock.advance(0.03)
    await world.reconciler.run()
    assert len(world.reconciler.failures) == 0
    assert world.reports[-1].failures == ()
    assert len(world.kernel.elements()[ENDPOINTS]) == 40
