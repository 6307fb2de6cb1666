# SPDX-License-Identifier: Apache-2.0
"""Somebody makes objects in our tables under names that are no text: they are removed as any other foreign object."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pointsman_enforcer.dataplane.nftables.message import Batch, Family, Table, add_chain
from pointsman_enforcer.dataplane.nftables.netlink import NftSocket
from pointsman_enforcer.dataplane.nftables.sets import Field, SetSpec, add_set
from support.drift_world import drift_node
from support.enforcer_plans import key, load_balancer
from support.netns import NetNs

pytestmark = pytest.mark.root

NAME = "\xff\xfe\x80"
"""Three bytes, which are not UTF-8; stock nft cannot make such a name, every other program can."""


@pytest.fixture
def namespace() -> Iterator[NetNs]:
    with NetNs("names") as made:
        yield made


async def test_a_chain_and_a_set_whose_names_are_no_text_go(namespace: NetNs) -> None:
    table = Table(family=Family.IPV4)
    spec = SetSpec(name=NAME, key=(Field.ADDRESS,), words="theirs")
    async with drift_node(namespace) as node:
        node.plan({key(1): load_balancer()})
        await node.programmed()
        before = node.listing()
        with namespace.call(NftSocket) as somebody:
            somebody.commit_blocking(Batch([add_chain(table, NAME), add_set(table, spec, 4000)]))
            assert NAME in somebody.chain_names(table)
            await node.looked(1)
            assert NAME not in (*somebody.chain_names(table), *somebody.set_names(table))
        assert not node.failures
        assert node.listing() == before
