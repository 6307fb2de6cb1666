# SPDX-License-Identifier: Apache-2.0
"""Section 2: services without usable endpoints reject."""

from __future__ import annotations

from collections.abc import Iterator

from conformance.addresses import CLIENT, EXTERNAL_IP, POD, PRIMARY
from conformance.build import IPVS, REJECT, case, listed, probe
from conformance.model import Event, Row
from conformance.objects import Port, apply, service, slice_of

VIP, LB = "172.30.0.41", "1.2.3.4"
A = "10.180.0.1"


def _state(endpoints: str | None) -> tuple[Event, ...]:
    subject = service("svc1", VIP, [Port(80, node_port=3001)], external_ips=[EXTERNAL_IP], load_balancer=[LB])
    return apply(subject) if endpoints is None else apply(subject, slice_of("svc1", endpoints))


def rows() -> Iterator[Row]:
    frontends = {
        "14": (POD, VIP, 80),
        "15": (CLIENT, EXTERNAL_IP, 80),
        "16": (POD, PRIMARY, 3001),
        "17": (CLIENT, PRIMARY, 3001),
        "18": (POD, LB, 80),
        "19": (CLIENT, LB, 80),
    }
    probes = {number: probe(source, to, REJECT, port=port) for number, (source, to, port) in frontends.items()}
    for number, one in probes.items():
        yield from case(2, number, _state(None), one)
    yield from case(
        2,
        "20d",
        _state(None),
        probe(PRIMARY, VIP, REJECT),
        probe(PRIMARY, EXTERNAL_IP, REJECT),
        probe(PRIMARY, PRIMARY, REJECT, port=3001),
    )
    everywhere = tuple(probes.values())
    yield from case(2, "21", _state(f"{A}@L/U"), *everywhere, title="only endpoints that are not ready")
    yield from case(2, "21d", _state(""), *everywhere, title="a slice without endpoints")
    yield from case(2, "22", _state(f"{A}@L/TX"), *everywhere, title="only a terminating endpoint that serves no more")
    yield from listed(2, "24", "virtual servers exist with zero real servers", modes=IPVS)
