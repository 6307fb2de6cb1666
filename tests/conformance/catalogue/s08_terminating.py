# SPDX-License-Identifier: Apache-2.0
"""Section 8: endpoints that are on their way out."""

from __future__ import annotations

from collections.abc import Iterator

from conformance.addresses import CLIENT, POD, PRIMARY
from conformance.build import DROP, REJECT, case, probe, sequence, to
from conformance.model import Event, Expectation, Row, Step
from conformance.objects import Port, SlicePort, apply, delete, endpoint, service, slice_of

VIP, LB = "172.30.1.1", "1.2.3.4"
E1, E2, E3, E4, E5 = (f"10.0.1.{number}" for number in range(1, 6))


def _service(policy: str) -> str:
    return service("svc1", VIP, [Port(80, "http")], load_balancer=[LB], etp=policy)


def _slice(endpoints: str, name: str = "svc1-1") -> str:
    return slice_of("svc1", endpoints, [SlicePort(80, "http")], slice_name=name)


def _case(number: str, policy: str, endpoints: str, inside: Expectation, outside: Expectation) -> Iterator[Row]:
    state = apply(_service(policy), _slice(endpoints))
    yield from case(8, number, state, probe(POD, VIP, inside), probe(CLIENT, LB, outside))


def rows() -> Iterator[Row]:
    mixed = f"{E1}@L {E2}@L {E3}@L/T {E4}@L/TX {E5}@R"
    yield from _case("89", "Local", mixed, to(E1, E2, E5, m=False), to(E1, E2, m=False))
    yield from _case("90d", "Local", f"{E1}@L/T {E5}@R", to(E5, m=False), to(E1, m=False))
    yield from _case("91d", "Local", f"{E1}@L/TX {E5}@R", to(E5, m=False), DROP)
    gone = f"{E5}@L/TX {E5}@R/TX"
    yield from _case("92", "Local", gone, REJECT, REJECT)
    yield from sequence(
        8,
        "93",
        Step(events=apply(_service("Local"), _slice(gone)), probes=(probe(POD, VIP, REJECT),)),
        Step(events=delete(_slice(gone)), probes=(probe(POD, VIP, REJECT), probe(CLIENT, LB, REJECT))),
    )
    mixed = f"{E1}@L {E2}@L {E3}@R/T {E4}@R/TX {E5}@R"
    yield from _case("94", "Cluster", mixed, to(E1, E2, E5, m=False), to(E1, E2, E5, m=True))
    leaving = f"{E2}@L/T {E3}@L/T {E4}@R/TX {E5}@R/T"
    yield from _case("95", "Cluster", leaving, to(E2, E3, E5, m=False), to(E2, E3, E5, m=True))
    yield from _case("96", "Cluster", f"{E5}@R/T", to(E5, m=False), to(E5, m=True))
    yield from _case("97", "Cluster", f"{E4}@R/TX", REJECT, REJECT)
    yield from _case("97d", "Cluster", f"{E4}@R/U", REJECT, REJECT)
    yield from _defaults()
    yield from _duplicates()
    yield from _existing_flow()


def _defaults() -> Iterator[Row]:
    bare = [endpoint(f"{E1}@L/default")]
    yield from case(
        8,
        "98d",
        apply(_service("Cluster"), slice_of("svc1", bare, [SlicePort(80, "http")])),
        probe(POD, VIP, to(E1, m=False)),
        title="no conditions at all: ready",
    )
    custom = endpoint(f"{E2}@L") | {"conditions": {"ready": False, "serving": True, "terminating": False}}
    yield from case(
        8,
        "98e",
        apply(_service("Cluster"), slice_of("svc1", [custom], [SlicePort(80, "http")])),
        probe(POD, VIP, REJECT),
        title="not ready, serving, not terminating: never used",
    )


def _duplicates() -> Iterator[Row]:
    """If the duplicate counted as terminating, only the other endpoint would be left."""
    ready, leaving = _slice(f"{E1}@L {E2}@R", "svc1-a"), _slice(f"{E1}@L/T", "svc1-b")
    leaving_first = (_slice(f"{E1}@L/T", "svc1-a"), _slice(f"{E1}@L {E2}@R", "svc1-b"))
    orders: dict[str, tuple[Event, ...]] = {
        "99": apply(_service("Cluster"), ready, leaving),
        "99r": apply(_service("Cluster"), leaving, ready),
        "99n": apply(_service("Cluster"), *leaving_first),
    }
    for number, events in orders.items():
        title = "the same address and port ready in one slice, terminating in another: ready"
        yield from case(8, number, events, probe(POD, VIP, to(E1, E2, m=False)), title=title)


def _existing_flow() -> Iterator[Row]:
    flow = probe(POD, VIP, to(E1, m=False))
    yield from sequence(
        8,
        "100",
        Step(events=apply(_service("Cluster"), _slice(f"{E1}@L")), probes=(flow,), held=(flow,)),
        Step(events=apply(_slice(f"{E1}@L/T {E2}@R")), probes=(probe(POD, VIP, to(E2, m=False)),)),
        title="an open connection goes on after its endpoint left the set",
    )
    datagrams = probe(PRIMARY, VIP, to(f"{E1}:53", m=True), port=53, protocol="UDP")
    moved = probe(PRIMARY, VIP, to(f"{E2}:53", m=True), port=53, protocol="UDP")
    dns = service("dns", VIP, [Port(53, "dns", "UDP")])
    dns_port = [SlicePort(53, "dns", "UDP")]
    yield from sequence(
        8,
        "100u",
        Step(events=apply(dns, slice_of("dns", f"{E1}@L", dns_port)), probes=(datagrams,), held=(datagrams,)),
        Step(events=apply(slice_of("dns", f"{E1}@L/T {E2}@R", dns_port)), probes=(moved,)),
        title="a UDP flow to an endpoint that still serves goes on",
    )
