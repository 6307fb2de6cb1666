# SPDX-License-Identifier: Apache-2.0
"""Section 4: on which addresses node ports answer."""

from __future__ import annotations

from collections.abc import Iterator

from conformance.addresses import CLIENT, FOREIGN, POD, PRIMARY, SECONDARY, twin_address
from conformance.build import IPTABLES, IPVS, NONE, case, listed, probe, sequence, to
from conformance.model import NO_LOCALHOST, Event, IpFamily, NodeSettings, Origin, Row, Step
from conformance.objects import Port, SlicePort, apply, node, service, slice_of

VIP = "172.30.0.41"
A, B = "10.180.0.1", "10.180.2.1"
LOOPBACK = "127.0.0.1"


def _state(endpoints: str = f"{A}@R {B}@L") -> tuple[Event, ...]:
    return apply(service("svc1", VIP, [Port(80, node_port=3001)]), slice_of("svc1", endpoints))


def rows() -> Iterator[Row]:
    yield from _any_address()
    yield from _lists()
    yield from _changing()
    yield from _loopback()
    yield from listed(4, "55", "SCTP node ports are virtual servers on each node address", modes=IPVS)


def _any_address() -> Iterator[Row]:
    both = to(A, B, m=True)
    for suffix, endpoints in (("", f"{A}@R {B}@L"), ("n", f"{A} {B}@L")):
        state = _state(endpoints)
        yield from case(4, f"43{suffix}", state, probe(POD, VIP, to(A, B, m=False)))
        yield from case(4, f"44{suffix}", state, probe(CLIENT, PRIMARY, both, port=3001))
        yield from case(4, f"45{suffix}", state, probe(PRIMARY, PRIMARY, both, port=3001))
    yield from case(4, "44d", _state(), probe(CLIENT, SECONDARY, both, port=3001), title="every address matches")
    hairpin = probe(A, VIP, to(A, B, m=False), origin=Origin.POD)
    yield from case(4, "43nh", _state(f"{A} {B}@L"), hairpin, title="hairpin of an endpoint that names no node")
    foreign = probe(CLIENT, FOREIGN, NONE, port=3001)
    yield from case(4, "56", _state(), foreign)
    yield from case(4, "56d", _state(), probe(CLIENT, PRIMARY, NONE, port=3002), probe(CLIENT, PRIMARY, NONE, port=80))


def _lists() -> Iterator[Row]:
    both = to(A, B, m=True)
    primary = NodeSettings(node_port_addresses=("primary",))
    yield from case(4, "47", _state(), probe(CLIENT, SECONDARY, NONE, port=3001), settings=primary)
    yield from case(
        4,
        "47d",
        _state(),
        probe(CLIENT, PRIMARY, both, port=3001),
        probe(POD, PRIMARY, both, port=3001),
        probe(PRIMARY, PRIMARY, both, port=3001),
        probe(POD, SECONDARY, NONE, port=3001),
        probe(PRIMARY, SECONDARY, NONE, port=3001),
        settings=primary,
    )
    blocks = ("192.168.0.0/24", "192.168.1.0/24", "2001:db8::/64")
    partly = NodeSettings(node_port_addresses=blocks)
    wholly = NodeSettings(node_port_addresses=(*blocks, "2001:db8:1::2/128"))
    from_secondary = probe(CLIENT, SECONDARY, both, port=3001)
    yield from case(4, "48", _state(), from_secondary, settings=partly, has_twin=False)
    two = (twin_address(A), twin_address(B))
    for number, settings, expect in (("48", partly, NONE), ("48b", wholly, to(*two, m=True))):
        yield from case(
            4,
            number,
            apply(
                service("svc1", twin_address(VIP), [Port(80, node_port=3001)]),
                slice_of("svc1", f"{two[0]}@R {two[1]}@L"),
            ),
            probe(twin_address(CLIENT), twin_address(SECONDARY), expect, port=3001),
            probe(twin_address(CLIENT), twin_address(PRIMARY), to(*two, m=True), port=3001),
            settings=settings,
            has_twin=False,
            family=IpFamily.IPV6,
        )
    narrow = NodeSettings(node_port_addresses=("192.168.0.0/24", "127.0.0.1/32"))
    yield from case(4, "49", _state(), probe(CLIENT, SECONDARY, NONE, port=3001), settings=narrow)
    yield from case(4, "50d", _state(), probe(CLIENT, PRIMARY, both, port=3001), settings=narrow)
    other_family = NodeSettings(node_port_addresses=("2001:db8::/64",))
    yield from case(
        4, "49d", _state(), from_secondary, settings=other_family, title="no block of this family: every address"
    )


def _changing() -> Iterator[Row]:
    primary = NodeSettings(node_port_addresses=("primary",))
    both = to(A, B, m=True)
    swapped = node(addresses=(SECONDARY, twin_address(SECONDARY), PRIMARY, twin_address(PRIMARY)))
    yield from sequence(
        4,
        "47c.d",
        Step(
            events=_state(),
            probes=(probe(CLIENT, PRIMARY, both, port=3001), probe(CLIENT, SECONDARY, NONE, port=3001)),
        ),
        Step(
            events=apply(swapped),
            probes=(probe(CLIENT, PRIMARY, NONE, port=3001), probe(CLIENT, SECONDARY, both, port=3001)),
        ),
        settings=primary,
        title="the node's primary address changes",
    )
    cases = {"UDP": probe(CLIENT, PRIMARY, both, port=3001, protocol="UDP")}
    cases["SCTP"] = cases["UDP"]._replace(protocol="SCTP")
    for protocol, attempt in cases.items():
        subject = service("svc1", VIP, [Port(80, protocol=protocol, node_port=3001)])
        slices = slice_of("svc1", f"{A}@R {B}@L", [SlicePort(80, protocol=protocol)])
        other = attempt._replace(protocol="TCP", expect=NONE)
        yield from case(4, f"44.{protocol}.d", apply(subject, slices), attempt, other)


def _loopback() -> Iterator[Row]:
    to_loopback = probe(LOOPBACK, LOOPBACK, NONE, port=3001)
    yield from case(4, "52", _state(), to_loopback, modes=NO_LOCALHOST)
    narrow = NodeSettings(node_port_addresses=("192.168.0.0/24", "127.0.0.1/32"))
    title = "not even when nodePortAddresses names it"
    yield from case(4, "52d", _state(), to_loopback, settings=narrow, title=title, modes=NO_LOCALHOST)
    yield from _localhost(narrow)


def _localhost(narrow: NodeSettings) -> Iterator[Row]:
    """Where 127.0.0.1 answers, for this host alone; never ::1."""
    both = to(A, B, m=True)
    answers = probe(LOOPBACK, LOOPBACK, both, port=3001)
    secondary = probe(CLIENT, SECONDARY, both, port=3001)
    ipv4 = {"modes": IPTABLES, "has_twin": False}
    yield from case(4, "46", _state(), secondary, title="secondary addresses answer", modes=IPTABLES)
    yield from case(4, "51", _state(), answers, title="localhost node ports", **ipv4)
    yield from case(4, "51d", _state(), answers, settings=narrow, title="nodePortAddresses names it", **ipv4)
    elsewhere = NodeSettings(node_port_addresses=("192.168.0.0/24",))
    none = answers._replace(expect=NONE)
    yield from case(4, "51n", _state(), none, settings=elsewhere, title="nodePortAddresses leaves it out", **ipv4)
    never = case(4, "51", _state(), none, title="::1 never answers", modes=IPTABLES)
    yield from (row for row in never if row.family is IpFamily.IPV6)
