# SPDX-License-Identifier: Apache-2.0
"""Section 6: internalTrafficPolicy."""

from __future__ import annotations

from collections.abc import Iterator

from conformance.addresses import CLIENT, POD, PRIMARY
from conformance.build import DROP, REJECT, case, probe, sequence, to
from conformance.model import Event, Row, Step
from conformance.objects import apply, delete, service, slice_of

VIP = "172.30.1.1"
E1, E2, E3 = "10.0.1.1", "10.0.1.2", "10.0.1.3"


def _state(policy: str, endpoints: str) -> tuple[Event, ...]:
    return apply(service("svc1", VIP, itp=policy), slice_of("svc1", endpoints))


def rows() -> Iterator[Row]:
    mixed = f"{E1}@L {E2}@R {E3}@R"
    yield from case(6, "77", _state("Cluster", mixed), probe(POD, VIP, to(E1, E2, E3, m=False)))
    yield from case(6, "78", _state("Local", mixed), probe(POD, VIP, to(E1, m=False)))
    yield from case(
        6, "78d", _state("Local", mixed), probe(PRIMARY, VIP, to(E1, m=True)), probe(CLIENT, VIP, to(E1, m=True))
    )
    yield from case(6, "79", _state("Local", f"{E1}@L {E2}@L {E3}@R"), probe(POD, VIP, to(E1, E2, m=False)))
    remote = f"{E2}@R {E3}@R"
    yield from case(6, "80", _state("Local", remote), probe(POD, VIP, DROP))
    yield from case(6, "80d", _state("Local", remote), probe(PRIMARY, VIP, DROP), probe(CLIENT, VIP, DROP))
    yield from sequence(
        6,
        "81",
        Step(events=_state("Local", remote), probes=(probe(POD, VIP, DROP),)),
        Step(events=delete(slice_of("svc1", remote)), probes=(probe(POD, VIP, REJECT),)),
    )
