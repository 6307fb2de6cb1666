# SPDX-License-Identifier: Apache-2.0
"""Names of endpoint chains, and the stamp of the skeleton."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman_enforcer.dataplane.nftables.chains import (
    DROP_CHAIN,
    MARK_CHAIN,
    REJECT_CHAIN,
    EndpointChain,
    EndpointSet,
    Frontend,
    endpoint_chain_of,
    endpoint_chains,
)
from pointsman_enforcer.dataplane.nftables.elements import Element
from pointsman_enforcer.dataplane.nftables.layout import STATE_SKELETON
from pointsman_enforcer.dataplane.nftables.message import Batch, Family, Table
from pointsman_enforcer.dataplane.nftables.settings import PodInterface, PodPrefix, SkeletonSettings
from pointsman_enforcer.dataplane.nftables.skeleton import Adoption, adoption, skeleton, stamp_of

TABLE = Table(family=Family.IPV4)
CHAINS = st.builds(
    EndpointChain,
    slots=st.integers(1, 65535),
    frontend=st.sampled_from(Frontend),
    endpoints=st.sampled_from(EndpointSet),
    masquerade=st.booleans(),
    affinity_seconds=st.one_of(st.just(0), st.integers(1, 86400)),
)


@given(CHAINS)
def test_a_chain_is_found_again_by_its_name(chain: EndpointChain) -> None:
    assert endpoint_chain_of(chain.name) == chain
    assert len(chain.name) < 128


@pytest.mark.parametrize("name", [REJECT_CHAIN, DROP_CHAIN, MARK_CHAIN, "services", "cluster-0", "cluster-99999", ""])
def test_other_names_are_no_endpoint_chains(name: str) -> None:
    assert endpoint_chain_of(name) is None


def test_the_variants_of_one_size_are_distinct_and_named_as_documented() -> None:
    assert [chain.name for chain in endpoint_chains(3)] == [
        "cluster-3", "cluster-3-masq", "local-3", "local-3-masq",
        "nodeport-cluster-3", "nodeport-cluster-3-masq", "nodeport-local-3", "nodeport-local-3-masq",
    ]  # fmt: skip
    assert len({chain.name for chain in endpoint_chains(3) + endpoint_chains(3, affinity_seconds=10800)}) == 16


@pytest.mark.parametrize("slots", [0, -1, 65536])
def test_a_number_of_slots_out_of_range_is_refused(slots: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 65535 slots, not {slots}"):
        EndpointChain(slots=slots)


def test_equal_settings_give_equal_messages_and_every_setting_changes_the_stamp() -> None:
    variants = [
        SkeletonSettings(),
        SkeletonSettings(masquerade_bit=15),
        SkeletonSettings(masquerade_all=True),
        SkeletonSettings(masquerade_local=False),
        SkeletonSettings(pods=PodPrefix(network=ipaddress.ip_network("10.0.0.0/8"))),
        SkeletonSettings(pods=PodInterface(name="cni0")),
        SkeletonSettings(pods=PodInterface(name="cni0", prefix=True)),
    ]
    assert len({stamp_of(TABLE, settings) for settings in variants}) == len(variants)
    assert skeleton(TABLE, variants[3]) == skeleton(TABLE, variants[3])


def test_a_table_of_another_schema_is_replaced() -> None:
    state = [Element(STATE_SKELETON, comment="schema 0 skeleton 0123456789abcdef")]
    assert adoption(state, TABLE, SkeletonSettings()) is Adoption.REPLACE


@pytest.mark.parametrize("name", ["", "a b", "x" * 16, 'a"b', "a/b", "cni*", "ü"])
def test_a_hostile_interface_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no interface name"):
        PodInterface(name=name)


def test_a_pod_prefix_of_the_other_family_is_refused() -> None:
    with pytest.raises(ValueError, match="not of family ip"):
        skeleton(TABLE, SkeletonSettings(pods=PodPrefix(network=ipaddress.ip_network("fd00::/64"))))


@pytest.mark.parametrize("bit", [-1, 32])
def test_a_bit_a_mark_does_not_have_is_refused(bit: int) -> None:
    with pytest.raises(ValueError, match=f"masquerade bit {bit}"):
        SkeletonSettings(masquerade_bit=bit)


def test_a_batch_measures_what_it_sends() -> None:
    batch = Batch()
    batch.extend(skeleton(TABLE, SkeletonSettings()))
    frames = 2 * 20
    assert len(batch.encode(1)) == batch.payload_bytes() + frames
