# SPDX-License-Identifier: Apache-2.0
"""Elements: what is encoded is what is parsed, whatever the number; wrong lengths never leave the process."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman_enforcer.dataplane.nftables import layout, uapi
from pointsman_enforcer.dataplane.nftables.attributes import ATTRIBUTE_BYTES_MAX, parse, walk
from pointsman_enforcer.dataplane.nftables.elements import (
    Element,
    add_commented,
    add_elements,
    add_keys,
    add_ranges,
    delete_keys,
    flush_set,
    parse_elements,
)
from pointsman_enforcer.dataplane.nftables.message import Family, Message, Table
from pointsman_enforcer.dataplane.nftables.sets import SetSpec

TABLES = [Table(family=Family.IPV4), Table(family=Family.IPV6)]
BOTH = pytest.mark.parametrize("table", TABLES, ids=["ip", "ip6"])


def parsed(messages: list[Message]) -> list[Element]:
    return [element for message in messages for element in parse_elements(message.payload)]


@given(st.sampled_from(TABLES), st.data())
def test_map_elements_round_trip(table: Table, data: st.DataObject) -> None:
    spec = layout.ENDPOINTS
    key, value = spec.key_bytes(table.family), spec.data_bytes(table.family)
    pair = st.tuples(st.binary(min_size=key, max_size=key), st.binary(min_size=value, max_size=value))
    pairs = data.draw(st.lists(pair, max_size=50))
    assert [(element.key, element.data) for element in parsed(add_elements(table, spec, pairs))] == pairs
    assert [element.key for element in parsed(delete_keys(table, spec, (each for each, _ in pairs)))] == [
        each for each, _ in pairs
    ]


@BOTH
def test_verdicts_round_trip(table: Table) -> None:
    size = layout.SERVICE_IPS.key_bytes(table.family)
    pairs = [(bytes([number]) * size, name) for number, name in enumerate([b"cluster-3", b"drop-traffic", b"local-10"])]
    assert [(element.key, element.data) for element in parsed(add_elements(table, layout.SERVICE_IPS, pairs))] == pairs


@BOTH
def test_more_elements_than_one_message_holds_become_several(table: Table) -> None:
    size = layout.CLUSTER_IPS.key_bytes(table.family)
    keys = [number.to_bytes(size, "big") for number in range(10_000)]
    messages = add_keys(table, layout.CLUSTER_IPS, keys)
    assert len(messages) > 1
    assert all(len(message.payload) <= ATTRIBUTE_BYTES_MAX + 64 for message in messages)
    assert [element.key for element in parsed(messages)] == keys


def test_no_elements_are_no_message() -> None:
    assert add_keys(TABLES[0], layout.CLUSTER_IPS, []) == []


@BOTH
@pytest.mark.parametrize("spec", [layout.CLUSTER_IPS, layout.ENDPOINTS, layout.SERVICE_IPS], ids=lambda spec: spec.name)
def test_a_key_of_the_wrong_length_is_refused_before_it_reaches_the_kernel(table: Table, spec: SetSpec) -> None:
    key = bytes(spec.key_bytes(table.family) + 4)
    with pytest.raises(ValueError, match=spec.name):
        add_elements(table, spec, [(key, b"x")]) if spec.is_map else add_keys(table, spec, [key])
    with pytest.raises(ValueError, match=spec.name):
        delete_keys(table, spec, [key])


@BOTH
def test_a_plain_range_is_its_first_key_and_the_one_after_its_last(table: Table) -> None:
    size = table.family.address_bytes
    first, last, after = bytes(size), (255).to_bytes(size, "big"), (256).to_bytes(size, "big")
    elements = parsed(add_ranges(table, layout.SERVICE_CIDRS, [(first, last)]))
    assert [(element.key, element.interval_end) for element in elements] == [(first, False), (after, True)]


@BOTH
def test_a_range_to_the_last_address_is_left_open(table: Table) -> None:
    size = table.family.address_bytes
    elements = parsed(add_ranges(table, layout.SERVICE_CIDRS, [(bytes(size), b"\xff" * size)]))
    assert [(element.key, element.interval_end) for element in elements] == [(bytes(size), False)]


def test_a_comment_comes_back() -> None:
    (element,) = parsed(add_commented(TABLES[0], layout.STATE, layout.STATE_PLAN, "revision 7"))
    assert (element.key, element.comment) == (struct.pack("=I", 2), "revision 7")
    with pytest.raises(ValueError, match="comment of 128 bytes"):
        add_commented(TABLES[0], layout.STATE, layout.STATE_PLAN, "x" * 128)


def test_a_flush_names_the_set_and_no_element() -> None:
    message = flush_set(TABLES[0], layout.ENDPOINTS)
    assert message.kind == uapi.NFT_MSG_DELSETELEM
    assert parse(message.payload) == {1: b"pointsman\0", 2: b"endpoints\0"}


@given(st.binary(max_size=64))
def test_arbitrary_bytes_are_parsed_or_refused_but_never_overrun(data: bytes) -> None:
    try:
        values = list(walk(data))
    except ValueError:
        return
    assert sum(len(value) + 4 for _, value in values) <= len(data)
