# SPDX-License-Identifier: Apache-2.0
"""Elements of every kind are read back from a real kernel by their keys, and a difference is found and mended."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pointsman_enforcer.dataplane.base import ReadBack
from pointsman_model.names import ServiceKey
from support.drift_world import DriftNode, drift_node
from support.enforcer_plans import key, load_balancer, numbered
from support.netns import NetNs

pytestmark = pytest.mark.root
PLANS = {key(1): numbered(1), key(2): load_balancer(), key(3): numbered(3, count=200)}


@pytest.fixture(scope="module")
def namespace() -> Iterator[NetNs]:
    with NetNs() as made:
        yield made


def read(node: DriftNode, name: ServiceKey) -> ReadBack:
    return node.dataplane.read_back(node.reconciler.rendering(name), 0, 100_000)


async def test_what_was_programmed_is_found_as_it_was_programmed_without_listing_anything(namespace: NetNs) -> None:
    async with drift_node(namespace) as node:
        node.plan(PLANS)
        await node.programmed()
        dumps = node.dataplane.dumps
        for name in PLANS:
            found = read(node, name)
            assert (found.differing, found.words) == (0, "")
            assert found.reads > 3
        assert read(node, key(3)).reads >= 200
        assert node.dataplane.dumps == dumps


DAMAGE = {
    "endpoints": (key(1), "delete element ip pointsman endpoints { 172.30.0.1 . tcp . 80 . 0 }"),
    "allowed_sources": (key(2), "flush set ip pointsman allowed_sources"),
    "firewalled": (key(2), "flush set ip pointsman firewalled"),
    "cluster_ips": (key(1), "flush set ip pointsman cluster_ips"),
    "service_ips": (key(1), "flush map ip pointsman service_ips"),
}


@pytest.mark.parametrize("where", DAMAGE)
async def test_what_is_not_there_any_more_is_told_and_mended(namespace: NetNs, where: str) -> None:
    name, commands = DAMAGE[where]
    async with drift_node(namespace) as node:
        node.plan(PLANS)
        await node.programmed()
        before = node.listing()
        # Nothing else runs between the damage and the look at it: the loop waits for both.
        namespace.run("nft", "-f", "-", stdin=commands)
        found = read(node, name)
        assert found.differing >= 1
        assert found.words.startswith(where)
        assert "is missing" in found.words
        await node.looked(1)
        assert node.listing() == before
        assert read(node, name).differing == 0


async def test_another_value_under_the_same_key_is_told(namespace: NetNs) -> None:
    async with drift_node(namespace) as node:
        node.plan(PLANS)
        await node.programmed()
        where = "ip pointsman endpoints { 172.30.0.1 . tcp . 80 . 0"
        namespace.run("nft", "-f", "-", stdin=f"delete element {where} }}\nadd element {where} : 10.9.9.9 . 9 }}")
        found = read(node, key(1))
        assert (found.differing, "is another" in found.words) == (1, True)
