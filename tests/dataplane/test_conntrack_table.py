# SPDX-License-Identifier: Apache-2.0
"""The connection table of a real kernel: filters find what they name, deletions hit it and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pointsman_enforcer.core.stale_flows import ATTEMPTS, Flow, Place, Query, packed_endpoint
from pointsman_enforcer.dataplane.conntrack import ctnetlink
from pointsman_enforcer.dataplane.conntrack.table import ConntrackTable
from pointsman_model.names import parse_address
from support.flow_table import Seen, count, flows, inject, udp
from support.netns import NetNs

pytestmark = pytest.mark.root

VIP, OTHER, POD, NODE = "172.30.0.10", "172.30.0.11", "10.0.1.2", "192.168.0.2"
UNRELATED = 50_000


@pytest.fixture
def node() -> Iterator[NetNs]:
    with NetNs("flows") as made:
        yield made


@pytest.fixture
def table(node: NetNs) -> Iterator[ConntrackTable]:
    with node.call(ConntrackTable) as made:
        yield made


def everything(_: Flow) -> bool:
    return True


def place(address: str, port: int) -> Query:
    packed = parse_address(address) if address else b""
    family = 6 if len(packed) == 16 else 4
    return Query(family, 17, place=Place(family, 17, packed, port))


def answered_by(address: str, port: int) -> Query:
    return Query(4, 17, answering=packed_endpoint(parse_address(address), port))


ENTRIES = [
    udp(VIP, 53, POD, 5353, number=1),
    udp(VIP, 54, POD, 5353, number=2),
    udp(VIP, 53, number=3),
    udp(OTHER, 53, "10.0.1.3", 5353, number=4),
    udp(NODE, 32000, POD, 5353, number=5),
    udp("8.8.8.8", 32000, number=6),
    udp("8.8.8.8", 53, number=7),
    udp(VIP, 53, "10.0.1.20", 5353, number=8),
]


def test_attempts_are_what_nobody_answered_and_the_kernel_shows_no_others(node: NetNs, table: ConntrackTable) -> None:
    answered = [udp("8.8.8.8", 53, number=each) for each in range(1000)]
    attempts = [udp(VIP, 53, number=1), udp("2001:db8::9", 53, source="2001:db8::1", number=2)]
    inject(node, answered, is_answered=True)
    inject(node, attempts[:1], 6)
    inject(node, attempts[1:])
    shown: list[Flow] = []
    assert table.end_flows(ATTEMPTS, lambda flow: bool(shown.append(flow)) or True) == len(attempts)
    assert len(shown) == len(attempts), "the kernel filters by status"
    assert (table.dumps, count(node)) == (1, len(answered))


@pytest.mark.parametrize(
    ("query", "named"),
    [
        (place(VIP, 53), {0, 2, 7}),
        (place(OTHER, 53), {3}),
        (place("", 32000), {4, 5}),
        (answered_by(POD, 5353), {0, 1, 4}),
        (Query(4, 17), {0, 1, 2, 3, 4, 5, 6, 7}),
        (Query(4, 132), set()),
    ],
)
def test_a_query_ends_what_it_names_and_nothing_else(
    node: NetNs, table: ConntrackTable, query: Query, named: set[int]
) -> None:
    inject(node, ENTRIES)
    assert table.end_flows(query, everything) == len(named)
    assert flows(node) == {entry for index, entry in enumerate(ENTRIES) if index not in named}
    assert table.deletions == len(named)


@pytest.mark.parametrize(
    "query",
    [place("fd00:96::1", 53), Query(6, 17, answering=packed_endpoint(parse_address("fd00:10::2"), 5353)), Query(6, 17)],
)
def test_ipv6(node: NetNs, table: ConntrackTable, query: Query) -> None:
    entry = Seen("fd00:9::9", 1024, "fd00:96::1", 53, "fd00:10::2", 5353)
    other = entry._replace(source_port=1025, destination="fd00:96::2")
    inject(node, [entry, other])
    wanted = Flow(6, 17, parse_address("fd00:96::1"), 53, packed_endpoint(parse_address("fd00:10::2"), 5353))
    assert table.end_flows(query, lambda flow: flow == wanted) == 1
    assert flows(node, family="ipv6") == {other}


def test_sctp(node: NetNs, table: ConntrackTable) -> None:
    inject(node, [udp(VIP, 53, POD, 5353)], protocol=132)
    inject(node, [udp(VIP, 53, POD, 5353)])
    assert table.end_flows(Query(4, 132, place=Place(4, 132, parse_address(VIP), 53)), everything) == 1
    assert len(flows(node)) == 1


def test_among_many_unrelated_entries_each_stale_one_costs_one_deletion(node: NetNs, table: ConntrackTable) -> None:
    stale = [udp(VIP, 53, POD, 5353, number=each) for each in range(300)]
    alive = [udp(VIP, 53, "10.0.1.3", 5353, source="10.0.9.10", number=each) for each in range(200)]
    inject(node, stale + alive)
    inject(node, (udp("8.8.8.8", 53, source=f"10.1.{each >> 13}.1", number=each & 8191) for each in range(UNRELATED)))
    good = packed_endpoint(parse_address("10.0.1.3"), 5353)
    judged: list[Flow] = []

    def is_stale(flow: Flow) -> bool:
        judged.append(flow)
        return flow.answering != good

    assert table.end_flows(place(VIP, 53), is_stale) == len(stale)
    assert len(judged) == len(stale) + len(alive), "the kernel shows only what was asked for"
    assert (table.deletions, table.dumps) == (len(stale), 1)
    assert count(node) == UNRELATED + len(alive)
    judged.clear()
    assert table.end_flows(answered_by(POD, 5353), is_stale) == 0
    assert (judged, table.deletions) == ([], len(stale))


def test_deleting_while_the_table_is_read_misses_nothing(node: NetNs, table: ConntrackTable) -> None:
    inject(node, (udp(VIP, 53, POD, 5353, source=f"10.1.{each >> 13}.1", number=each & 8191) for each in range(20_000)))
    inject(node, ENTRIES)
    assert table.end_flows(Query(4, 17), lambda flow: flow.address == parse_address(VIP)) == 20_000 + 4
    assert flows(node) == {entry for entry in ENTRIES if entry.destination != VIP}


def test_an_entry_that_was_replaced_meanwhile_is_left_alone(node: NetNs, table: ConntrackTable) -> None:
    entry = udp(VIP, 53, POD, 5353)
    fresh = entry._replace(answering="10.0.1.3")
    inject(node, [entry])

    def replace(_: Flow) -> bool:
        node.run("conntrack", "-D", "-p", "udp")
        inject(node, [fresh])
        return True

    assert table.end_flows(place(VIP, 53), replace) == 0
    assert flows(node) == {fresh}


def test_entries_of_other_zones_are_nobodys_business(node: NetNs, table: ConntrackTable) -> None:
    node.run(
        "conntrack", "-I", "-w", "7", "-p", "udp", "-t", "600", "-s", "10.0.9.9", "-d", VIP, "--sport", "9",
        "--dport", "53", "-r", POD, "-q", "10.0.9.9", "--reply-port-src", "5353", "--reply-port-dst", "9",
    )  # fmt: skip
    assert table.end_flows(place(VIP, 53), everything) == 0
    assert (len(flows(node)), table.deletions) == (1, 0)


def test_the_quick_way_to_read_an_entry_is_the_slow_one(
    node: NetNs, table: ConntrackTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    inject(node, ENTRIES)
    quick: list[Flow] = []
    slow: list[Flow] = []
    table.end_flows(Query(4, 17), lambda flow: bool(quick.append(flow)))
    monkeypatch.setattr(ctnetlink, "_USUAL", {4: ctnetlink._USUAL[4]._replace(original=b"never")})
    table.end_flows(Query(4, 17), lambda flow: bool(slow.append(flow)))
    assert sorted(quick) == sorted(slow)
    assert len(slow) == len(ENTRIES)


def test_local_addresses_are_those_of_the_namespace(node: NetNs, table: ConntrackTable) -> None:
    node.address("lo", "192.168.0.2/32", "2001:db8::1/128")
    assert {parse_address(text) for text in ("127.0.0.1", "::1", "192.168.0.2", "2001:db8::1")} == set(
        table.local_addresses()
    )
