# SPDX-License-Identifier: Apache-2.0
"""Section 10: both policies together."""

from __future__ import annotations

from collections.abc import Iterator

from conformance.addresses import CLIENT, POD, PRIMARY
from conformance.build import DROP, REJECT, case, probe, to
from conformance.model import Event, Row
from conformance.objects import Port, apply, service, slice_of

VIP = "172.30.1.1"
E0, E1, E2, E3 = (f"10.0.1.{number}" for number in (10, 1, 2, 3))
PORTS = (Port(80, node_port=3001),)


def _both_local(endpoints: str) -> tuple[Event, ...]:
    return apply(service("svc1", VIP, PORTS, itp="Local", etp="Local"), slice_of("svc1", endpoints))


def rows() -> Iterator[Row]:
    internal = service("svc1", VIP, itp="Local")
    yield from case(10, "115", apply(internal, slice_of("svc1", f"{E1}@R {E2}@R")), probe(POD, VIP, DROP))
    yield from case(10, "116", apply(internal, slice_of("svc1", "")), probe(POD, VIP, REJECT))
    yield from case(10, "116d", apply(internal, slice_of("svc1", f"{E1}@R/T {E2}@R/TX")), probe(POD, VIP, DROP))
    for number, flag in (("117", ""), ("118", "/T")):
        yield from case(
            10,
            number,
            _both_local(f"{E1}@R{flag} {E2}@R{flag}"),
            probe(POD, VIP, DROP),
            probe(CLIENT, PRIMARY, DROP, port=3001),
            probe(POD, PRIMARY, to(E1, E2, m=False), port=3001),
            probe(PRIMARY, PRIMARY, to(E1, E2, m=True), port=3001),
        )
    yield from case(
        10,
        "118d",
        _both_local(f"{E1}@L/T {E2}@R"),
        probe(POD, VIP, to(E1, m=False)),
        probe(CLIENT, PRIMARY, to(E1, m=False), port=3001),
        probe(POD, PRIMARY, to(E2, m=False), port=3001),
    )
    mixed = f"{E0}@R {E1}@L/U {E2}@L/T {E3}@R/T"
    external = service("svc1", VIP, PORTS, etp="Local")
    yield from case(
        10,
        "119",
        apply(external, slice_of("svc1", mixed)),
        probe(CLIENT, PRIMARY, to(E2, m=False), port=3001),
        probe(POD, PRIMARY, to(E0, m=False), port=3001),
        probe(POD, VIP, to(E0, m=False)),
    )
