# SPDX-License-Identifier: Apache-2.0
"""Section 3: load balancer addresses and who may use them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from conformance.addresses import BLOCKED_CLIENT, CLIENT, POD, PRIMARY, twin_address
from conformance.build import DROP, NONE, case, probe, to
from conformance.model import Event, IpFamily, Origin, Row
from conformance.objects import Port, SlicePort, apply, service, slice_of

VIP, LB1, LB2 = "172.30.0.41", "1.2.3.4", "5.6.7.8"
A = "10.180.0.1"
RANGES = ("192.168.0.0/24", " 203.0.113.0/25")


def _state(ranges: Sequence[str], load_balancer: Sequence[str | tuple[str, str]] = (LB1, LB2)) -> tuple[Event, ...]:
    subject = service("svc1", VIP, [Port(80, node_port=3001)], load_balancer=load_balancer, ranges=ranges)
    return apply(subject, slice_of("svc1", f"{A}@L"))


def rows() -> Iterator[Row]:
    yield from _filtered()
    yield from _looped_back()
    yield from _unfiltered()
    yield from _ip_modes()
    yield from _odd_texts()
    yield from _shared_address()


def _shared_address() -> Iterator[Row]:
    """Services share one load balancer address by port and protocol; each keeps its own ranges."""
    state = apply(
        service("web", VIP, load_balancer=[LB1], ranges=["203.0.113.0/25"]),
        slice_of("web", f"{A}@L"),
        service("more", "172.30.0.42", [Port(81)], load_balancer=[LB1]),
        slice_of("more", "10.180.2.1@R"),
        service("dns", "172.30.0.43", [Port(80, protocol="UDP")], load_balancer=[LB1]),
        slice_of("dns", "10.180.2.2@R", [SlicePort(53, protocol="UDP")]),
    )
    yield from case(
        3,
        "41s.d",
        state,
        probe(CLIENT, LB1, to(A, m=True)),
        probe(BLOCKED_CLIENT, LB1, DROP),
        probe(BLOCKED_CLIENT, LB1, to("10.180.2.1", m=True), port=81),
        probe(BLOCKED_CLIENT, LB1, to("10.180.2.2:53", m=True), protocol="UDP"),
        probe(CLIENT, LB1, NONE, port=82),
        title="three Services on one load balancer address",
    )


def _filtered() -> Iterator[Row]:
    state = _state(RANGES)
    allowed = to(A, m=True)
    yield from case(3, "25", state, probe(POD, VIP, to(A, m=False)))
    yield from case(3, "26", state, probe(CLIENT, PRIMARY, allowed, port=3001))
    yield from case(3, "27d", state, probe(BLOCKED_CLIENT, PRIMARY, allowed, port=3001), probe(CLIENT, VIP, allowed))
    yield from case(3, "28", state, probe(CLIENT, LB1, allowed))
    yield from case(3, "29", state, probe(CLIENT, LB2, allowed))
    yield from case(3, "30", state, probe(BLOCKED_CLIENT, LB1, DROP))
    yield from case(3, "31", state, probe(BLOCKED_CLIENT, LB2, DROP))
    yield from case(3, "32d", state, probe(POD, LB1, DROP))
    yield from case(3, "33", state, probe(POD, LB2, DROP))
    yield from case(3, "34", state, probe(PRIMARY, LB1, allowed))
    yield from case(3, "35", state, probe(PRIMARY, LB2, allowed))


def _looped_back() -> Iterator[Row]:
    for number, address in (("36d", LB1), ("37", LB2)):
        looped = probe(address, address, to(A, m=True), origin=Origin.HOST)
        yield from case(3, number, _state(RANGES), looped, extra_node_addresses=(address,))
    blocked = probe(LB1, LB1, DROP, origin=Origin.HOST)
    yield from case(3, "38", _state([RANGES[1]]), blocked, extra_node_addresses=(LB1,))


def _unfiltered() -> Iterator[Row]:
    everyone = tuple(probe(source, LB1, to(A, m=True)) for source in (BLOCKED_CLIENT, CLIENT, POD, PRIMARY))
    yield from case(3, "39", _state([*RANGES, "0.0.0.0/0"]), *everyone, title="a /0 among the ranges: no filter")
    both = apply(
        service(
            "svc1",
            (VIP, twin_address(VIP)),
            load_balancer=[LB1, twin_address(LB1)],
            ranges=[twin_address("203.0.113.0/25")],
        ),
        slice_of("svc1", f"{A}@L"),
        slice_of("svc1", f"{twin_address(A)}@L", slice_name="svc1-2"),
    )
    other = probe(twin_address(BLOCKED_CLIENT), twin_address(LB1), DROP)
    yield from case(3, "40", both, *everyone, other, title="ranges of the other family only: no filter in this one")


def _ip_modes() -> Iterator[Row]:
    state = _state([], [(LB1, "Proxy"), (LB2, "VIP")])
    captured = to(A, m=True)
    yield from case(3, "41", state, probe(POD, LB1, NONE))
    yield from case(
        3,
        "41d",
        state,
        probe(CLIENT, LB1, NONE),
        probe(PRIMARY, LB1, NONE),
        probe(POD, LB2, captured),
        probe(CLIENT, LB2, captured),
        probe(CLIENT, PRIMARY, captured, port=3001),
        probe(POD, VIP, to(A, m=False)),
        title="ipMode Proxy is not captured; VIP, node port and cluster IP are",
    )


def _odd_texts() -> Iterator[Row]:
    subject = service(
        "svc1",
        "172.30.0.041",
        load_balancer=["1.2.3.004"],
        external_ips=["192.168.099.022"],
        ranges=["203.0.113.000/025"],
    )
    state = apply(subject, slice_of("svc1", "10.180.00.001@L"))
    yield from case(
        3,
        "42",
        state,
        probe(POD, VIP, to(A, m=False)),
        probe(CLIENT, LB1, to(A, m=True)),
        probe(BLOCKED_CLIENT, LB1, DROP),
        probe(CLIENT, "192.168.99.22", to(A, m=True)),
        has_twin=False,
        title="leading zeros are decimal",
    )
    long_forms = service("svc1", "FD00:0010:0096:0:0:0:0:0041", [Port(80)], load_balancer=["2001:DB8:0001:2:3:0:0:4"])
    mapped = service("svc2", "::ffff:172.30.0.42", ipFamilies=["IPv4"])
    yield from case(
        3,
        "42",
        apply(
            long_forms,
            slice_of("svc1", "FD00:10:0:0:0:180:0:1@L"),
            mapped,
            slice_of("svc2", "::ffff:10.180.0.1@L", [SlicePort(80)], address_type="IPv4"),
        ),
        probe(twin_address(POD), "fd00:10:96::41", to("fd00:10::180:0:1", m=False)),
        probe(twin_address(CLIENT), "2001:db8:1:2:3::4", to("fd00:10::180:0:1", m=True)),
        probe(POD, "172.30.0.42", to(A, m=False)),
        has_twin=False,
        family=IpFamily.IPV6,
        title="long forms, capitals and IPv4-mapped addresses",
    )
