# SPDX-License-Identifier: Apache-2.0
"""Keys, values and ranges: fixed lengths, and exactly the addresses asked for."""

from __future__ import annotations

import ipaddress
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman_enforcer.dataplane.nftables import layout
from pointsman_enforcer.dataplane.nftables.message import Family

NETWORKS = st.lists(
    st.builds(
        lambda number, bits: ipaddress.ip_network((number, bits), strict=False),
        st.integers(0, 2**32 - 1),
        st.integers(0, 32),
    ),
    max_size=8,
)


@pytest.mark.parametrize(("family", "address"), [(Family.IPV4, "10.0.0.1"), (Family.IPV6, "fd00::1")])
def test_packed_keys_have_the_length_their_sets_declare(family: Family, address: str) -> None:
    packed = layout.packed(address, family)
    frontend = layout.frontend_key(packed, 6, 80)
    port = layout.nodeport_key(17, 30053)
    assert len(frontend) == layout.SERVICE_IPS.key_bytes(family) == layout.FIREWALLED.key_bytes(family)
    assert len(port) == layout.NODEPORTS.key_bytes(family)
    assert len(layout.slot_key(frontend, 1)) == layout.ENDPOINTS.key_bytes(family)
    assert len(layout.slot_key(port, 1)) == layout.NODEPORT_ENDPOINTS.key_bytes(family)
    assert len(layout.endpoint_value(packed, 80)) == layout.ENDPOINTS.data_bytes(family)
    assert len(layout.hairpin_key(packed)) == layout.HAIRPIN.key_bytes(family)
    ranges = layout.source_ranges(frontend, [ipaddress.ip_network(address)])
    assert [len(each) for each in ranges[0]] == [layout.ALLOWED_SOURCES.key_bytes(family)] * 2


def test_an_address_of_the_other_family_is_refused() -> None:
    with pytest.raises(ValueError, match="fd00::1 is not an address of family ip"):
        layout.packed("fd00::1", Family.IPV4)


@given(NETWORKS, st.lists(st.integers(0, 2**32 - 1), max_size=20))
def test_ranges_cover_exactly_the_networks_and_never_touch(
    networks: list[ipaddress.IPv4Network], extra: list[int]
) -> None:
    ranges = [
        (int.from_bytes(first, "big"), int.from_bytes(last, "big")) for first, last in layout.address_ranges(networks)
    ]
    assert all(first <= last for first, last in ranges)
    assert all(left[1] + 1 < right[0] for left, right in itertools.pairwise(ranges))
    edges = [
        edge
        for network in networks
        for edge in (int(network.network_address), int(network.broadcast_address))
        for edge in (edge - 1, edge, edge + 1)
        if 0 <= edge < 2**32
    ]
    for number in (*extra, *edges):
        inside = any(ipaddress.IPv4Address(number) in network for network in networks)
        assert inside == any(first <= number <= last for first, last in ranges)
