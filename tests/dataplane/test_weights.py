# SPDX-License-Identifier: Apache-2.0
"""Weights without session affinity: each endpoint has exactly its share of slots, and about that of connections."""

from __future__ import annotations

from collections import Counter

import pytest

from pointsman_enforcer.dataplane.nftables import layout
from pointsman_enforcer.dataplane.nftables.message import Family
from support.affinity_world import EVERYBODY, AffinityWorld

pytestmark = pytest.mark.root
CONNECTIONS = 600


@pytest.mark.parametrize("family", [Family.IPV4, Family.IPV6], ids=["ip", "ip6"])
def test_connections_follow_the_weights(family: Family) -> None:
    weights = {"a": 1, "b": 2, "c": 3, "d": 6}
    with AffinityWorld(family) as world:
        world.program(EVERYBODY, weights=weights, seconds=0)
        key = world.world.key(world.at.cluster_ip)
        values = [
            element.data
            for element in world.world.nft.dump_elements(world.world.table, layout.ENDPOINTS)
            if element.key.startswith(key)
        ]
        shares = Counter(values)
        endpoints = {name: world.endpoint(name) for name in EVERYBODY}
        assert {
            name: shares[layout.endpoint_value(endpoint.address, endpoint.port)] for name, endpoint in endpoints.items()
        } == weights
        seen = Counter(world.connect(world.client(1), udp=True) for _ in range(CONNECTIONS))
    for name, weight in weights.items():
        expected = CONNECTIONS * weight / sum(weights.values())
        # Six standard deviations: a right dataplane fails once in five hundred million runs.
        assert abs(seen[name] - expected) < 6 * (expected * (1 - weight / sum(weights.values()))) ** 0.5
