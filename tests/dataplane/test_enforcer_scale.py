# SPDX-License-Identifier: Apache-2.0
"""Ten thousand services in a real kernel: stock nft still lists them, and a restarted enforcer adopts them all."""

from __future__ import annotations

import asyncio

import pytest

from pointsman_chassis.clock import SystemClock
from pointsman_enforcer.core.plan_session import Programmed
from pointsman_enforcer.core.plan_store import PlanStore
from pointsman_enforcer.dataplane.nftables.backend import NftablesDataplane
from pointsman_enforcer.dataplane.nftables.change import NftChange
from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_enforcer.dataplane.reconciler import Reconciler
from pointsman_model.names import parse_prefix
from support.enforcer_plans import key, numbered, whole
from support.netns import NetNs

pytestmark = pytest.mark.root
SERVICES = 10_000
SETTINGS = NodeSettings(cluster_cidrs=(parse_prefix("10.0.0.0/8"),))


def start(namespace: NetNs, store: PlanStore) -> Programmed:
    """One enforcer's first sync."""
    reports: list[Programmed] = []
    dataplane = namespace.call(lambda: NftablesDataplane(node_settings=SETTINGS))
    reconciler: Reconciler[NftChange] = Reconciler(
        dataplane=dataplane,
        store=store,
        clock=SystemClock(),
        on_synced=lambda _pending, programmed, _tally: reports.append(programmed),
    )
    asyncio.run(reconciler.run())
    dataplane.close()
    return reports[0]


@pytest.mark.timeout(180)
def test_stock_nft_lists_ten_thousand_services_and_a_restart_changes_none() -> None:
    store = PlanStore()
    store.apply(whole({key(each): numbered(each) for each in range(SERVICES)}))
    with NetNs("scale") as namespace:
        first = start(namespace, store)
        assert first.programmed_digest == store.digest
        listing = namespace.ruleset()
        assert listing.count(" : goto cluster-10") == SERVICES
        assert listing.count(" . tcp . 80 . ") == 10 * SERVICES
        again = start(namespace, store)
        assert (again.kernel_messages, again.programmed_digest) == (0, store.digest)
