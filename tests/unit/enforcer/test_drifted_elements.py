# SPDX-License-Identifier: Apache-2.0
"""Which elements somebody touched is known as long as they are few and named; else their whole set is looked at."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest

from pointsman_enforcer.dataplane.nftables import layout, uapi
from pointsman_enforcer.dataplane.nftables.apply import TABLES
from pointsman_enforcer.dataplane.nftables.elements import add_elements, add_ranges, delete_keys, flush_set
from pointsman_enforcer.dataplane.nftables.mend import Wanted, named_keys
from pointsman_enforcer.dataplane.nftables.message import Family, Message
from pointsman_enforcer.dataplane.nftables.notifications import KEYS_MAX, Notifications, Touched
from pointsman_enforcer.dataplane.nftables.packed import pack, section_of
from pointsman_enforcer.dataplane.nftables.sets import SetSpec

V4 = Family.IPV4
TABLE = TABLES[V4]
ENDPOINTS = section_of(V4, layout.ENDPOINTS)
WHICH = (V4, layout.ENDPOINTS.name)


def slot(number: int, service: int = 1) -> bytes:
    return layout.slot_key(layout.frontend_key(bytes((172, 30, 0, service)), 6, 80), number)


def endpoint(number: int) -> bytes:
    return layout.endpoint_value(bytes((10, 0, 0, number)), 8080)


def heard(*commits: Sequence[Message]) -> Touched:
    """What a monitor makes of somebody's messages: announced, they look as they did when they were sent."""
    notifications = Notifications()
    for message in (each for commit in commits for each in commit):
        payload = struct.pack(">BBH", message.family, 0, 7) + message.payload
        kind = uapi.NFNL_SUBSYS_NFTABLES << 8 | message.kind
        notifications.read(struct.pack("=IHHII", len(payload) + 16, kind, 0, 1, 4711) + payload)
    return notifications.take()


def deleted(*numbers: int) -> list[Message]:
    return delete_keys(TABLE, layout.ENDPOINTS, [slot(number) for number in numbers])


def test_elements_added_and_deleted_are_named() -> None:
    added = add_elements(TABLE, layout.ENDPOINTS, [(slot(2), endpoint(2))])
    assert named_keys(heard(deleted(0, 1), added), ENDPOINTS) == {slot(0), slot(1), slot(2)}


def test_so_many_that_reading_the_set_is_cheaper_are_not_named() -> None:
    few, more = deleted(*range(KEYS_MAX)), deleted(KEYS_MAX)
    assert len(named_keys(heard(few), ENDPOINTS)) == KEYS_MAX
    assert named_keys(heard(few, more), ENDPOINTS) == frozenset()
    assert named_keys(heard(few, more, deleted(0)), ENDPOINTS) == frozenset(), "and that is not forgotten"
    assert heard(few, more).sets == {WHICH}


def test_a_flush_without_elements_is_about_all_of_them() -> None:
    assert named_keys(heard(deleted(0), [flush_set(TABLE, layout.ENDPOINTS)]), ENDPOINTS) == frozenset()


@pytest.mark.parametrize("spec", [layout.SERVICE_CIDRS, layout.ALLOWED_SOURCES])
def test_ranges_are_not_named(spec: SetSpec) -> None:
    first = bytes(spec.key_bytes(V4))
    found = heard(add_ranges(TABLE, spec, [(first, first[:-1] + b"\x07")]))
    assert found.sets == {(V4, spec.name)}
    assert named_keys(found, section_of(V4, spec)) == frozenset()


def test_keys_that_are_none_of_ours_are_not_asked_for() -> None:
    assert named_keys(Touched(sets={WHICH}, keys={WHICH: {b"short"}}), ENDPOINTS) == frozenset()


def test_after_a_loss_or_a_deleted_table_nothing_is_named() -> None:
    lost = heard(deleted(0))
    lost.lose()
    lost.include(heard(deleted(1)))
    assert named_keys(lost, ENDPOINTS) == frozenset()
    gone = heard(deleted(0))
    gone.deleted.add(V4)
    assert named_keys(gone, ENDPOINTS) == frozenset()


def test_a_set_made_anew_is_looked_at_whole() -> None:
    found = heard(deleted(0))
    found.touch_elements(WHICH, ())
    found.include(heard(deleted(1)))
    assert named_keys(found, ENDPOINTS) == frozenset()


def test_what_is_put_back_keeps_its_names() -> None:
    found = heard(deleted(0))
    found.include(heard(deleted(1)))
    assert named_keys(found, ENDPOINTS) == {slot(0), slot(1)}
    assert named_keys(found.without({Family.IPV6}), ENDPOINTS) == {slot(0), slot(1)}
    assert found.without({V4}).keys == {}


def test_what_is_wanted_of_a_key_is_what_some_rendering_has() -> None:
    renderings = [
        pack({ENDPOINTS.number: {slot(each, service): endpoint(each) for each in range(3)}}) for service in range(5)
    ]
    wanted = Wanted(renderings)
    assert wanted.of_keys(ENDPOINTS, {slot(1, 3), slot(7, 3)}) == [slot(1, 3) + endpoint(1)]
    assert b"".join(wanted.of(ENDPOINTS)).count(endpoint(1)) == len(renderings)


def test_a_key_that_only_looks_like_part_of_a_rendering_is_not_wanted() -> None:
    """Two records side by side may contain a key's bytes across their border."""
    rendering = pack({ENDPOINTS.number: {slot(0): endpoint(0), slot(1): endpoint(1)}})
    start = rendering.index(slot(0)) + 4
    across = rendering[start : start + ENDPOINTS.key_bytes]
    assert Wanted([rendering]).of_keys(ENDPOINTS, {across}) == []
