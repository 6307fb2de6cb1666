# SPDX-License-Identifier: Apache-2.0
"""What notifications of nf_tables mean, what a repair sends, and how often repairs are made."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise

import pytest

from pointsman_enforcer.core.drift import RepairPace
from pointsman_enforcer.dataplane.nftables import layout, uapi
from pointsman_enforcer.dataplane.nftables.apply import TABLES
from pointsman_enforcer.dataplane.nftables.attributes import attribute, text, u32
from pointsman_enforcer.dataplane.nftables.elements import Element
from pointsman_enforcer.dataplane.nftables.mend import (
    Repair,
    TableState,
    by_section,
    compare,
    is_structure_suspect,
    restructure,
    sections_to_compare,
)
from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_enforcer.dataplane.nftables.notifications import Notifications, Touched
from pointsman_enforcer.dataplane.nftables.packed import pack, section_of
from pointsman_enforcer.dataplane.nftables.settings import SkeletonSettings

V4, V6 = Family.IPV4, Family.IPV6
ENDPOINTS = section_of(V4, layout.ENDPOINTS)
KEYS = [layout.slot_key(layout.frontend_key(bytes((172, 30, 0, 1)), 6, 80), slot) for slot in range(3)]
VALUES = [layout.endpoint_value(bytes((10, 0, 0, each)), 8080) for each in range(3)]
OURS = text(1, "pointsman")
RENDERING = pack({ENDPOINTS.number: dict(zip(KEYS, VALUES, strict=True))})


def message(kind: int, family: int, *attributes: bytes, subsystem: int = uapi.NFNL_SUBSYS_NFTABLES) -> bytes:
    payload = struct.pack(">BBH", family, 0, 7) + b"".join(attributes)
    return struct.pack("=IHHII", len(payload) + 16, subsystem << 8 | kind, 0, 1, 4711) + payload


def generation(process: str = "firewalld", pid: int = 77) -> bytes:
    return message(uapi.NFT_MSG_NEWGEN, 0, u32(1, 9), u32(2, pid), text(3, process))


def touched(*datagrams: bytes) -> Touched:
    notifications = Notifications()
    for datagram in datagrams:
        notifications.read(datagram)
    return notifications.take()


def test_a_foreign_table_is_nobody_s_business() -> None:
    found = touched(message(uapi.NFT_MSG_NEWTABLE, V4, text(1, "others")), generation())
    assert not found.is_any
    assert found.process == ""


@pytest.mark.parametrize("name", ["pointsman-lookalike", "xpointsman", "Pointsman"])
def test_a_table_with_a_name_like_ours_is_foreign(name: str) -> None:
    assert not touched(message(uapi.NFT_MSG_DELTABLE, V4, text(1, name))).is_any


def test_our_name_in_another_family_is_foreign() -> None:
    inet = 1
    assert not touched(message(uapi.NFT_MSG_DELTABLE, inet, OURS)).is_any


def test_a_foreign_object_that_bears_our_table_s_name_is_foreign() -> None:
    named = message(uapi.NFT_MSG_NEWCHAIN, V4, text(1, "others"), text(3, "pointsman"))
    assert not touched(named, generation("pointsman")).is_any


@pytest.mark.parametrize(
    ("datagram", "kind", "sets", "chains"),
    [
        (message(uapi.NFT_MSG_DELSETELEM, V4, OURS, text(2, "endpoints")), "element", {(V4, "endpoints")}, set()),
        (message(uapi.NFT_MSG_DELSET, V6, OURS, text(2, "hairpin")), "set", {(V6, "hairpin")}, set()),
        (message(uapi.NFT_MSG_NEWRULE, V4, OURS, text(2, "services")), "rule", set(), {(V4, "services")}),
        (message(uapi.NFT_MSG_DELCHAIN, V4, OURS, text(3, "cluster-2")), "chain", set(), {(V4, "cluster-2")}),
        (message(uapi.NFT_MSG_NEWTABLE, V4, OURS), "table", set(), set()),
        (message(18, V4, OURS), "other", set(), set()),
    ],
)  # fmt: skip
def test_what_was_touched_and_by_whom(
    datagram: bytes, kind: str, sets: set[tuple[Family, str]], chains: set[tuple[Family, str]]
) -> None:
    found = touched(datagram, generation("firewalld", 77))
    assert (found.kinds, found.sets, found.chains) == ({kind}, sets, chains)
    assert (found.process, found.process_id) == ("firewalld", 77)
    assert not found.deleted


def test_a_process_is_named_only_for_its_own_commit() -> None:
    ours = message(uapi.NFT_MSG_DELTABLE, V4, OURS)
    foreign = message(uapi.NFT_MSG_NEWTABLE, V4, text(1, "others"))
    found = touched(ours, generation("flusher", 1), foreign, generation("docker", 2))
    assert (found.process, found.process_id) == ("flusher", 1)


def test_several_messages_of_one_datagram_are_all_read() -> None:
    both = message(uapi.NFT_MSG_DELTABLE, V4, text(1, "others")) + message(uapi.NFT_MSG_DELTABLE, V6, OURS)
    assert touched(both).deleted == {V6}


def test_a_table_made_anew_by_others_is_not_to_be_trusted() -> None:
    gone = message(uapi.NFT_MSG_DELTABLE, V4, OURS)
    made = message(uapi.NFT_MSG_NEWTABLE, V4, OURS)
    assert touched(gone, made).remade == {V4}
    assert touched(made, gone).remade == set()


def test_a_set_of_ours_made_anew_by_others_is_not_to_be_trusted() -> None:
    gone = message(uapi.NFT_MSG_DELSET, V4, OURS, text(2, "endpoints"))
    made = message(uapi.NFT_MSG_NEWSET, V4, OURS, text(2, "endpoints"))
    assert touched(gone, made).remade == {V4}
    assert touched(made, gone).remade == set()
    assert touched(made).remade == set(), "made again without having been deleted, it is as it was"


def test_a_set_of_theirs_made_anew_is_only_removed() -> None:
    gone = message(uapi.NFT_MSG_DELSET, V4, OURS, text(2, "__set0"))
    made = message(uapi.NFT_MSG_NEWSET, V4, OURS, text(2, "__set0"))
    assert touched(gone, made).remade == set()


def test_what_cannot_be_read_counts_as_lost() -> None:
    length, rest = struct.pack("=I", 10_000), message(uapi.NFT_MSG_DELTABLE, V4, OURS)[4:]
    assert touched(length + rest).is_lost
    unnamed = message(uapi.NFT_MSG_DELSETELEM, V4, OURS)
    assert touched(unnamed).is_lost


@pytest.mark.parametrize("rest", [b"\0", bytes(19)], ids=["a-byte", "less-than-a-header"])
def test_what_is_left_over_of_a_datagram_counts_as_lost(rest: bytes) -> None:
    assert touched(message(uapi.NFT_MSG_DELTABLE, V4, OURS) + rest).is_lost


def test_names_that_are_no_text_are_told_apart_and_can_be_sent_back() -> None:
    names = [b"\xff\xfe", b"\xff\xfd", "\u00fc".encode()]
    made = [message(uapi.NFT_MSG_NEWCHAIN, V4, OURS, attribute(3, name + b"\0")) for name in names]
    found = touched(*made)
    assert {text(3, name) for _, name in found.chains} == {attribute(3, name + b"\0") for name in names}
    assert not found.is_lost


def test_names_without_end_are_not_kept() -> None:
    chains = [message(uapi.NFT_MSG_NEWCHAIN, V4, OURS, text(3, f"c{number}")) for number in range(25_000)]
    notifications = Notifications()
    for start in range(0, len(chains), 50):
        notifications.read(b"".join(chains[start : start + 50]))
        assert len(notifications.touched.chains) <= 20_000
    assert notifications.take().is_lost


def test_what_is_put_back_is_taken_again_with_the_newer_process() -> None:
    first = touched(message(uapi.NFT_MSG_DELSETELEM, V4, OURS, text(2, "endpoints")), generation("a", 1))
    second = touched(message(uapi.NFT_MSG_DELTABLE, V6, OURS), generation("b", 2))
    first.include(second)
    assert (first.kinds, first.deleted, first.process) == ({"element", "table"}, {V6}, "b")
    assert first.without({V6}).sets == {(V4, "endpoints")}
    assert not first.without({V4, V6}).is_any


def test_only_touched_sets_are_compared_and_after_losses_all_of_them() -> None:
    one = Touched(kinds={"element"}, sets={(V4, "endpoints"), (V4, "state"), (V4, "theirs")})
    assert sections_to_compare(one, V4) == [ENDPOINTS]
    assert sections_to_compare(one, V6) == []
    assert is_structure_suspect(one, V4), "the stamp is written with the skeleton"
    assert not is_structure_suspect(one, V6)
    lost = Touched(is_lost=True, kinds={"lost"})
    names = {section.spec.name for section in sections_to_compare(lost, V6)}
    assert names == {spec.name for spec in layout.ALL_SETS if spec is not layout.STATE and not spec.timeout}


def elements(*slots: int) -> Iterator[Element]:
    return (Element(KEYS[slot], VALUES[slot]) for slot in slots)


def compared(found: Iterator[Element], *, may_remove: bool = True) -> tuple[int, int, int, int]:
    repair = Repair()
    compare(repair, ENDPOINTS, found, by_section([RENDERING, b""])[ENDPOINTS.number], may_remove=may_remove)
    return len(repair.removals), len(repair.additions), repair.objects, repair.surplus


def test_equal_elements_need_nothing_even_if_the_kernel_lists_one_twice() -> None:
    assert compared(elements(0, 1, 2)) == (0, 0, 0, 0)
    assert compared(elements(0, 1, 2, 1)) == (0, 0, 0, 0)


def test_missing_wrong_and_foreign_elements_are_told_apart() -> None:
    foreign = Element(layout.slot_key(KEYS[0][:-4], 9), VALUES[0])
    assert compared(elements(0, 2)) == (0, 1, 1, 0)
    assert compared(iter([Element(KEYS[0], VALUES[1]), *elements(1, 2)])) == (1, 1, 1, 0)
    assert compared(iter([foreign, *elements(0, 1, 2)])) == (1, 0, 1, 1)
    assert compared(iter([foreign, *elements(0, 1, 2)]), may_remove=False) == (0, 0, 0, 1)


def state(**changes: tuple[str, ...]) -> TableState:
    names = tuple(spec.name for spec in layout.ALL_SETS)
    chains = ("services", "nodeports", "cluster-2")
    return TableState(
        family=V4,
        settings=SkeletonSettings(),
        endpoint_chains=frozenset({"cluster-2", "cluster-3"}),
        chain_names=changes.get("chain_names", chains),
        set_names=changes.get("set_names", names),
    )


def what(found: Touched, table: TableState) -> list[str]:
    repair = Repair()
    restructure(repair, found, table)
    return [message.what.removesuffix(": table ip pointsman") for message in repair.structure]


def test_a_touched_endpoint_chain_is_written_anew_and_no_other() -> None:
    sent = what(Touched(structure={V4}, chains={(V4, "cluster-2"), (V6, "cluster-3")}, kinds={"rule"}), state())
    assert sent[:2] == ["add chain cluster-2", "flush chain cluster-2"]
    assert {each.rpartition(" ")[2] for each in sent} == {"cluster-2"}


def test_a_touched_static_chain_is_written_anew_with_its_policy() -> None:
    sent = what(Touched(structure={V4}, chains={(V4, "services")}, kinds={"rule"}), state())
    assert "flush chain services" in sent
    assert "set policy of nat-output" in sent
    assert not any("cluster-2" in each for each in sent)


def test_foreign_chains_and_sets_go_and_anonymous_ones_go_with_their_rules() -> None:
    every = tuple(spec.name for spec in layout.ALL_SETS)
    table = state(chain_names=("services", "theirs", "__chain0"), set_names=(*every, "__set3", "theirs"))
    sent = what(Touched(structure={V4}, chains={(V4, "theirs")}, kinds={"chain"}), table)
    assert sent == ["flush chain theirs", "delete chain theirs", "delete set theirs"]


def test_after_losses_everything_static_is_written_anew_and_nothing_is_claimed_to_have_been_wrong() -> None:
    repair = Repair()
    restructure(repair, Touched(is_lost=True, kinds={"lost"}), state())
    names = [message.what for message in repair.structure]
    assert f"add chain cluster-3: table ip {TABLES[V4].name}" in names
    assert repair.objects == 0


def test_the_first_repair_is_at_once_and_a_row_of_them_ever_more_seldom() -> None:
    pace, now, starts = RepairPace(), 100.0, []
    for _ in range(12):
        now = pace.due(now)
        starts.append(now)
        pace.looked(now)
    gaps = [round(after - before, 2) for before, after in pairwise(starts)]
    assert starts[0] < 100.05
    assert gaps == [0.25, 0.25, 0.25, 0.25, 1, 2, 4, 8, 16, 30, 30]
    assert pace.is_slowed


def test_after_a_quiet_minute_a_repair_is_at_once_again() -> None:
    pace, now = RepairPace(), 0.0
    for _ in range(10):
        now = pace.due(now)
        pace.looked(now)
    later = now + 200
    assert pace.due(later) - later < 0.05
    pace.looked(later)
    assert not pace.is_slowed
