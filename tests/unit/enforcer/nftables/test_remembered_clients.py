# SPDX-License-Identifier: Apache-2.0
"""What looks at the memory of clients add up to: who was seen, for how long, and who was missed once."""

from __future__ import annotations

import struct

import pytest

from pointsman_enforcer.dataplane.nftables import layout
from pointsman_enforcer.dataplane.nftables.affinity_memory import Remembered
from pointsman_enforcer.dataplane.nftables.apply import TABLES
from pointsman_enforcer.dataplane.nftables.elements import Timed, add_timed, parse_timed
from pointsman_enforcer.dataplane.nftables.message import Family

V4 = Family.IPV4
PORT, OTHER, MEMBER = (struct.pack("=I", number) for number in (0xC0010000, 0xC0020000, 0xC0010005))


def client(number: int, *, port: bytes = PORT, left_ms: int = 1000, member: bytes = MEMBER) -> Timed:
    return port + bytes((10, 0, 0, number)), member, 5000, left_ms


def seen(*elements: Timed, before: Remembered | None = None, passed_ms: int = 0) -> Remembered:
    found = Remembered(V4)
    found.include(elements)
    if before is not None:
        found.carry(before, passed_ms)
    return found


def left(remembered: Remembered, passed_ms: int = 0) -> dict[int, int]:
    elements = remembered.elements(remembered.ports(), passed_ms)
    return {key[-1]: left_ms for key, _, _, left_ms in elements}


def test_time_passes_after_a_look() -> None:
    found = seen(client(1, left_ms=1000), client(2, left_ms=3000))
    assert left(found) == {1: 1000, 2: 3000}
    assert left(found, 1500) == {2: 1500}


def test_who_was_seen_twice_is_remembered_once() -> None:
    found = seen(client(1), client(1), client(2))
    assert sorted(element[0][-1] for element in found.elements([PORT], 0)) == [1, 2]


def test_who_was_missed_once_is_remembered_and_who_was_missed_twice_is_not() -> None:
    first = seen(client(1), client(2))
    second = seen(client(1), before=first, passed_ms=100)
    assert left(second) == {1: 1000, 2: 900}
    third = seen(client(1), before=second, passed_ms=100)
    assert left(third) == {1: 1000}


def test_whoever_is_seen_again_counts_as_seen_now() -> None:
    first = seen(client(1, left_ms=1000))
    assert left(seen(client(1, left_ms=5000), before=first, passed_ms=10)) == {1: 5000}


def test_nobody_is_remembered_beyond_the_time_they_had() -> None:
    first = seen(client(1, left_ms=1000))
    assert left(seen(before=first, passed_ms=1000)) == {}


def test_what_is_missing_is_told_port_by_port() -> None:
    whole, rest = seen(client(1), client(2), client(1, port=OTHER)), seen(client(2))
    missing = {key for key, *_ in whole.without(rest, 0)}
    assert missing == {client(1)[0], client(1, port=OTHER)[0]}


@pytest.mark.parametrize("family", Family, ids=lambda family: family.name)
def test_elements_are_read_as_they_are_written(family: Family) -> None:
    address = bytes(range(family.address_bytes))
    elements = [(PORT + address, MEMBER, 600_000, 1), (OTHER + address, MEMBER, 1, 599_000)]
    (message,) = add_timed(TABLES[family], layout.AFFINITY, elements)
    sizes = layout.AFFINITY.key_bytes(family), layout.AFFINITY.data_bytes(family)
    assert list(parse_timed(message.payload, *sizes)) == elements


def test_elements_of_another_layout_are_read_too() -> None:
    (message,) = add_timed(TABLES[V4], layout.AFFINITY, [client(1), client(2)])
    sizes = layout.AFFINITY.key_bytes(V4), layout.AFFINITY.data_bytes(V4)
    head, tail = message.payload.split(client(1)[0])
    odd = head.replace(b"affinity", b"affinity") + client(1)[0] + tail
    swapped = bytearray(odd)
    timeout = odd.index(struct.pack(">Q", 5000)) - 4
    first, second = odd[timeout : timeout + 12], odd[timeout + 12 : timeout + 24]
    swapped[timeout : timeout + 24] = second + first
    assert list(parse_timed(bytes(swapped), *sizes)) == [client(1), client(2)]
