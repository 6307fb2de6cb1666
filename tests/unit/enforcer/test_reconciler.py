# SPDX-License-Identifier: Apache-2.0
"""What the reconciler makes of commits, refusals, drift and restarts, on a kernel in memory."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping

import pytest

from pointsman_chassis.clock import VirtualClock
from pointsman_chassis.errors import ApplyError
from pointsman_enforcer.core.plan_session import Commit, Programmed
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.core.transaction import Position, Stage, Transaction
from pointsman_enforcer.dataplane.nftables.backend import NftablesDataplane
from pointsman_enforcer.dataplane.nftables.change import NftChange
from pointsman_enforcer.dataplane.nftables.message import Family, Message
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_enforcer.dataplane.reconciler import Reconciler, ReconcilerLimits, ServicesFailedError
from pointsman_enforcer.dataplane.work import Pending, Tally
from pointsman_model.digest import plan_digest
from pointsman_model.names import ServiceKey, parse_address, parse_prefix
from pointsman_model.plan import ServicePlan
from pointsman_model.wire.plan import encode_service_plan
from support.enforcer_plans import FACTS, cluster_ip, digest_of, endpoints, key, load_balancer, numbered
from support.fake_nftables import FakeNftables

SETTINGS = NodeSettings(cluster_cidrs=(parse_prefix("10.0.0.0/8"), parse_prefix("fd00:10::/64")))


class World:
    """One node: a kernel that outlives restarts, a plan, and an enforcer process that does not."""

    def __init__(self) -> None:
        self.kernel = FakeNftables()
        self.clock = VirtualClock()
        self.store = PlanStore()
        self.reports: list[Programmed] = []
        self.tallies: list[Tally] = []
        self.nonce = 0
        self.restart()

    def restart(self) -> None:
        self.dataplane = NftablesDataplane(node_settings=SETTINGS, kernel=self.kernel)
        self.reconciler: Reconciler[NftChange] = Reconciler(
            dataplane=self.dataplane,
            store=self.store,
            clock=self.clock,
            on_synced=self._synced,
            limits=ReconcilerLimits(services_per_change=8),
        )

    def commit(
        self,
        updates: Mapping[ServiceKey, ServicePlan | bytes],
        removals: tuple[ServiceKey, ...] = (),
        *,
        in_sync: bool = True,
    ) -> None:
        self.nonce += 1
        encoded = {
            name: plan if isinstance(plan, bytes) else encode_service_plan(plan) for name, plan in updates.items()
        }
        after = {name: self.store.get(name) or b"" for name in self.store if name not in removals} | encoded
        transaction = Transaction(
            nonce=self.nonce,
            position=Position("e", self.nonce),
            updates=encoded,
            removals=removals,
            facts=FACTS,
            digest=digest_of(after),
            in_sync=in_sync,
        )
        changes = tuple(self.store.apply(transaction))
        commit = Commit(transaction, changes, in_sync)
        self.reconciler.commit(commit, stream=self, received_at=self.clock.monotonic(), received_ns=1)

    def vips(self) -> set[str]:
        found = self.kernel.elements().get((Family.IPV4, "pointsman", "service_ips"), frozenset())
        return {".".join(map(str, element.key[:4])) for element in found}

    def _synced(self, pending: Pending, programmed: Programmed, tally: Tally) -> None:
        assert pending.stream in (self, None)
        self.reports.append(programmed)
        self.tallies.append(tally)


def refuses(address: str, code: int = errno.EINVAL) -> Callable[[Message], int]:
    packed, prefix = parse_address(address), "add elements to service_ips:"
    return lambda message: code if message.what.startswith(prefix) and packed in message.payload else 0


async def test_nothing_is_touched_before_the_node_is_known() -> None:
    world = World()
    await world.reconciler.run()
    assert world.kernel.tables == {}
    assert world.reports == []


async def test_a_commit_is_programmed_and_acknowledged_with_the_digest() -> None:
    world = World()
    world.commit({key(1): numbered(1), key(2): load_balancer()})
    await world.reconciler.run()
    [report] = world.reports
    assert (report.nonce, report.digest, report.programmed_digest) == (1, world.store.digest, world.store.digest)
    assert report.services == 2
    assert world.vips() == {"172.30.0.1", "172.30.0.42", "1.2.3.4"}


async def test_a_transaction_that_changes_nothing_is_acknowledged_without_the_kernel() -> None:
    world = World()
    world.commit({key(1): numbered(1)})
    await world.reconciler.run()
    commits = world.kernel.counters.commits
    world.commit({})
    await world.reconciler.run()
    assert world.reports[-1].nonce == 2
    assert world.kernel.counters.commits == commits


async def test_one_changed_endpoint_is_one_batch_of_two_messages_and_no_dump() -> None:
    world = World()
    world.commit({key(each): numbered(each) for each in range(50)})
    await world.reconciler.run()
    dumps = world.kernel.counters.dumps
    world.commit({key(7): numbered(7, first=2)})
    await world.reconciler.run()
    assert world.reports[-1].kernel_messages == 2
    assert world.kernel.counters.dumps == dumps


async def test_one_refused_service_is_found_and_all_others_are_applied() -> None:
    world = World()
    world.kernel.refuse = refuses("172.30.0.5")
    world.commit({key(each): numbered(each) for each in range(20)})
    with pytest.raises(ServicesFailedError):
        await world.reconciler.run()
    [report] = world.reports
    assert [(failure.key, failure.stage) for failure in report.failures] == [(key(5), Stage.APPLY)]
    assert "EINVAL" in report.failures[0].message
    assert report.nonce == 1
    assert world.vips() == {f"172.30.0.{each}" for each in range(20) if each != 5}
    missing = plan_digest(key(5), encode_service_plan(numbered(5)))
    assert report.programmed_digest == (report.digest - missing) % 2**64


async def test_a_refused_update_keeps_the_last_good_state() -> None:
    world = World()
    world.commit({key(1): numbered(1)})
    await world.reconciler.run()
    before = world.kernel.elements()
    world.kernel.refuse = lambda message: errno.EINVAL if "endpoints" in message.what else 0
    world.commit({key(1): numbered(1, first=3)})
    with pytest.raises(ServicesFailedError):
        await world.reconciler.run()
    assert world.kernel.elements() == before
    good = plan_digest(key(1), encode_service_plan(numbered(1)))
    assert world.reports[-1].programmed_digest == good


async def test_what_is_refused_before_and_after_the_kernel_is_read_back_is_not_claimed() -> None:
    world = World()
    world.commit({key(1): numbered(1)})
    await world.reconciler.run()
    good = world.store.digest
    await world.clock.advance(60.0)
    world.kernel.refuse = lambda message: errno.EINVAL if "endpoints" in message.what else 0
    world.commit({key(1): numbered(1, first=3), key(2): numbered(2)})
    with pytest.raises(ServicesFailedError):
        await world.reconciler.run()
    assert world.reports[-1].digest == world.store.digest
    assert world.reports[-1].programmed_digest == good


async def test_what_was_as_planned_and_cannot_be_put_back_is_not_claimed() -> None:
    world = World()
    world.commit({key(1): numbered(1), key(2): numbered(2)})
    await world.reconciler.run()
    await world.clock.advance(60.0)
    world.kernel.tables.clear()
    world.kernel.refuse = refuses("172.30.0.1")
    world.commit({key(2): numbered(2, first=3)})
    with pytest.raises(ServicesFailedError):
        await world.reconciler.run()
    assert world.vips() == {"172.30.0.2"}
    assert world.reports[-1].programmed_digest == plan_digest(key(2), encode_service_plan(numbered(2, first=3)))


async def test_a_refused_service_is_tried_again_with_backoff_and_reported_when_it_works() -> None:
    world = World()
    world.kernel.refuse = refuses("172.30.0.1")
    world.commit({key(1): numbered(1), key(2): numbered(2)})
    with pytest.raises(ServicesFailedError):
        await world.reconciler.run()
    attempts = world.kernel.counters.failed_commits
    with pytest.raises(ServicesFailedError):
        await world.reconciler.run()
    assert world.kernel.counters.failed_commits == attempts, "not before its time"
    await world.clock.advance(1.0)
    with pytest.raises(ServicesFailedError):
        await world.reconciler.run()
    assert len(world.reports) == 1, "the planner knows already"
    await world.clock.advance(1.5)
    world.kernel.refuse = lambda _: 0
    with pytest.raises(ServicesFailedError):
        await world.reconciler.run()
    await world.clock.advance(0.5)
    await world.reconciler.run()
    assert (world.reports[-1].nonce, world.reports[-1].programmed_digest) == (0, world.store.digest)
    assert world.vips() == {"172.30.0.1", "172.30.0.2"}


@pytest.mark.parametrize(
    ("plan", "stage"),
    [
        (b"\xff\xff nonsense", Stage.DECODE),
        (ServicePlan(required_capabilities=("teleport",)), Stage.UNSUPPORTED),
    ],
)
async def test_a_plan_that_cannot_be_programmed_is_refused_and_only_a_new_one_is_tried(
    plan: bytes | ServicePlan, stage: Stage
) -> None:
    world = World()
    world.commit({key(1): numbered(1), key(2): plan})
    await world.reconciler.run()
    assert [failure.stage for failure in world.reports[-1].failures] == [stage]
    assert world.vips() == {"172.30.0.1"}
    await world.clock.advance(3600)
    await world.reconciler.run()
    assert len(world.reports) == 1
    world.commit({key(2): numbered(2)})
    await world.reconciler.run()
    assert world.reports[-1].programmed_digest == world.store.digest
    assert world.vips() == {"172.30.0.1", "172.30.0.2"}


async def test_elements_removed_by_hand_are_found_on_the_next_refusal_and_mended() -> None:
    world = World()
    world.commit({key(each): numbered(each) for each in range(4)})
    await world.reconciler.run()
    want = world.kernel.elements()
    for table in world.kernel.tables.values():
        table.sets["endpoints"].clear()
    await world.clock.advance(60)
    world.commit({key(1): numbered(1, first=2)})
    await world.reconciler.run()
    world.commit({key(1): numbered(1)})
    await world.reconciler.run()
    assert world.reports[-1].failures == ()
    after = world.kernel.elements()
    assert {where: len(found) for where, found in after.items()} == {where: len(found) for where, found in want.items()}


async def test_a_table_deleted_by_hand_is_made_anew_with_everything() -> None:
    world = World()
    world.commit({key(each): numbered(each) for each in range(20)})
    await world.reconciler.run()
    want = world.kernel.elements()
    world.kernel.tables.clear()
    await world.clock.advance(60)
    world.commit({key(1): numbered(1, first=2)})
    await world.reconciler.run()
    world.commit({key(1): numbered(1)})
    await world.reconciler.run()
    assert world.kernel.elements().keys() == want.keys()
    assert world.vips() == {f"172.30.0.{each}" for each in range(20)}


async def test_an_address_that_moves_between_services_is_never_lost() -> None:
    world = World()
    moved = ServicePlan(ports=(cluster_ip("172.30.9.9", 80, endpoints("10.9.9.1")),))
    many = {key(each): numbered(each) for each in range(20)}
    world.commit({**many, key("old"): moved})
    await world.reconciler.run()
    again = {name: numbered(each, first=2) for each, name in enumerate(many)}
    world.commit({key("new"): moved, **again, key("old"): ServicePlan()})
    await world.reconciler.run()
    assert world.reports[-1].failures == ()
    assert "172.30.9.9" in world.vips()
    world.commit({}, removals=(key("new"),))
    await world.reconciler.run()
    assert "172.30.9.9" not in world.vips()


async def test_an_address_two_services_claim_stays_with_the_first() -> None:
    world = World()
    plan = ServicePlan(ports=(cluster_ip("172.30.9.9", 80, endpoints("10.9.9.1")),))
    world.commit({key("a"): plan})
    await world.reconciler.run()
    world.commit({key("b"): plan})
    with pytest.raises(ServicesFailedError):
        await world.reconciler.run()
    assert [failure.key for failure in world.reports[-1].failures] == [key("b")]
    world.commit({}, removals=(key("a"),))
    await world.clock.advance(2)
    await world.reconciler.run()
    assert world.vips() == {"172.30.9.9"}
    assert world.reports[-1].programmed_digest == world.store.digest


async def test_restart_sends_nothing_when_nothing_changed() -> None:
    world = World()
    world.commit({key(1): numbered(1), key(2): load_balancer()})
    await world.reconciler.run()
    want, commits = world.kernel.elements(), world.kernel.counters.commits
    world.restart()
    await world.reconciler.run()
    assert world.kernel.counters.commits == commits
    assert world.kernel.elements() == want


async def test_leftovers_go_only_once_a_planner_is_in_sync() -> None:
    world = World()
    world.commit({key(1): numbered(1), key(2): numbered(2)})
    await world.reconciler.run()
    world.store = PlanStore()
    world.restart()
    world.commit({key(1): numbered(1)}, in_sync=False)
    await world.reconciler.run()
    assert world.vips() == {"172.30.0.1", "172.30.0.2"}, "a plan that is not whole removes nothing"
    world.commit({})
    await world.reconciler.run()
    assert world.vips() == {"172.30.0.1"}


async def test_service_cidrs_are_dropped_only_when_the_plan_is_whole() -> None:
    world = World()
    where = (Family.IPV4, "pointsman", "service_cidrs")
    world.commit({key(1): numbered(1)}, in_sync=False)
    await world.reconciler.run()
    assert where not in world.kernel.elements()
    world.commit({})
    await world.reconciler.run()
    assert where in world.kernel.elements()


async def test_a_table_of_another_schema_is_replaced_by_the_whole_plan_in_one_batch() -> None:
    world = World()
    world.commit({key(1): numbered(1), key(2): numbered(2)})
    await world.reconciler.run()
    want = world.kernel.elements()
    for table in world.kernel.tables.values():
        table.sets["state"].clear()
    world.store = PlanStore()
    world.restart()
    world.commit({key(1): numbered(1)}, in_sync=False)
    commits = world.kernel.counters.commits
    await world.reconciler.run()
    assert world.kernel.counters.commits == commits, "half a plan replaces nothing"
    world.commit({key(2): numbered(2)})
    await world.reconciler.run()
    assert world.kernel.counters.commits == commits + 1
    assert world.kernel.elements() == want
    assert world.reports[-1].programmed_digest == world.store.digest


async def test_when_the_whole_kernel_refuses_the_sync_fails_and_the_ack_is_still_owed() -> None:
    world = World()
    world.kernel.refuse = lambda _: errno.ENOMEM
    world.commit({key(1): numbered(1)})
    with pytest.raises(ApplyError):
        await world.reconciler.run()
    assert world.reports == []
    world.kernel.refuse = lambda _: 0
    await world.reconciler.run()
    assert world.reports[-1].nonce == 1
    assert world.vips() == {"172.30.0.1"}
