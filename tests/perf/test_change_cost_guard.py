# SPDX-License-Identifier: Apache-2.0
"""Guard of promise 2: a change costs what changed. Counted in messages and bytes to a real kernel, never in time."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import pytest

from pointsman_chassis.clock import SystemClock
from pointsman_enforcer.core.plan_session import Commit, Programmed
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.core.transaction import Transaction
from pointsman_enforcer.dataplane.nftables.backend import NftablesDataplane
from pointsman_enforcer.dataplane.nftables.change import NftChange
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_enforcer.dataplane.reconciler import Reconciler
from pointsman_model.names import parse_prefix
from pointsman_model.plan import ServicePlan
from pointsman_model.wire.plan import encode_service_plan
from support.enforcer_plans import key, numbered, whole
from support.netns import NetNs

pytestmark = pytest.mark.root
FEW, MANY = 10, 5_000
SETTINGS = NodeSettings(cluster_cidrs=(parse_prefix("10.0.0.0/8"),))


@dataclass(frozen=True)
class Cost:
    """What one change sent to the kernel, and what the process did for it."""

    messages: int
    bytes: int
    dumps: int
    system_calls: int
    """To the kernel's sockets, both ways."""
    plans_decoded: int
    renderings: int


def costs(services: int, changes: tuple[ServicePlan, ...]) -> list[Cost]:
    """The cost of each change of service 1, one after the other, with so many services loaded."""
    store, reports = PlanStore(), list[Programmed]()
    store.apply(whole({key(each): numbered(each) for each in range(services)}))
    with NetNs("guard") as namespace:
        dataplane = namespace.call(lambda: NftablesDataplane(node_settings=SETTINGS))
        reconciler: Reconciler[NftChange] = Reconciler(
            dataplane=dataplane,
            store=store,
            clock=SystemClock(),
            on_synced=lambda _pending, programmed, _tally: reports.append(programmed),
        )
        found = asyncio.run(_play(reconciler, dataplane, store, reports, changes))
        dataplane.close()
    return found


async def _play(
    reconciler: Reconciler[NftChange],
    dataplane: NftablesDataplane,
    store: PlanStore,
    reports: list[Programmed],
    changes: tuple[ServicePlan, ...],
) -> list[Cost]:
    await reconciler.run()
    found = []
    for nonce, plan in enumerate(changes, start=2):
        dumps = dataplane.dumps
        transaction = Transaction(nonce=nonce, updates={key(1): encode_service_plan(plan)})
        commit = Commit(transaction, tuple(store.apply(transaction)), in_sync=True)
        reconciler.commit(commit, stream=None, received_at=0.0, received_ns=0)
        with counted() as calls:
            await reconciler.run()
        last = reports[-1]
        work = (calls["socket"], calls["decode_service_plan"], calls["render"])
        found.append(Cost(last.kernel_messages, last.kernel_bytes, dataplane.dumps - dumps, *work))
    return found


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Calls of this thread while the body runs: of Python's functions by name, of methods of sockets together."""
    calls: Counter[str] = Counter()

    def profile(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            calls[frame.f_code.co_name] += 1
        elif event == "c_call" and isinstance(getattr(argument, "__self__", None), socket.socket):
            calls["socket"] += 1

    sys.setprofile(profile)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def test_one_endpoint_change_costs_the_same_at_ten_and_at_five_thousand_services() -> None:
    replaced = numbered(1, first=2)
    grown = numbered(1, 11, first=2)
    shrunk = numbered(1, 10, first=2)
    changes = (replaced, grown, shrunk, grown)
    few, many = costs(FEW, changes), costs(MANY, changes)
    assert few == many
    assert few[0].messages == 2, "one element goes, one comes"
    assert few[0].bytes < 512
    assert few[3].messages == 3, "one endpoint comes, and the verdict that counts them is replaced"
    assert {cost.system_calls for cost in many} == {3}, "one sent, one answer, and the look whether there is more"
    assert {(cost.plans_decoded, cost.renderings) for cost in many} == {(1, 1)}, "of the service that changed, no other"
    assert all(cost.dumps == 0 for cost in many), "nothing is listed in steady state"
