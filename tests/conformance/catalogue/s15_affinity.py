# SPDX-License-Identifier: Apache-2.0
"""Section 15: session affinity ClientIP.

Rows are written with all endpoints that a client may use; `foretell` narrows them to the one it must get.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from conformance.addresses import POD, PRIMARY
from conformance.build import IPVS, listed, probe, sequence, to
from conformance.foretelling import foretell
from conformance.model import Disturbance, Expectation, Probe, Row, Step
from conformance.objects import Port, SlicePort, apply, service, slice_of

_HTTP, _HTTPS = SlicePort(80, "http"), SlicePort(81, "https")
A, B, C, D = "10.180.0.1", "10.180.0.2", "10.180.2.1", "10.180.2.2"
LB = "1.2.3.4"
NOT_IPVS = frozenset({"nftables", "iptables"})
REMEMBERS_MANY = NOT_IPVS
MANY = 120
PORTS = {80: "http", 3001: "http", 81: "https", 3002: "https"}
"""Which ServicePort a destination port belongs to."""


def rows() -> Iterator[Row]:
    """Every row has a cluster IP of its own, so that none finds what another left in the kernel's memory."""
    for row in (*_stickiness(), *_time(), *_changes(), *_frontends(), *_local()):
        yield replace(row, remembers=True, steps=foretell(row.steps, PORTS))
    yield from listed(15, "162i", "the timeout of a Service is that of all its virtual servers", modes=IPVS)


def _clients(row: int, count: int = 12) -> list[str]:
    return [f"198.51.{row}.{number}" for number in range(1, count + 1)]


def _service(vip: str, *, seconds: int = 600, etp: str = "", ports: tuple[Port, ...] = (Port(80),)) -> str:
    return service(
        "svc1",
        vip,
        ports,
        load_balancer=[LB] if etp else (),
        etp=etp,
        sessionAffinity="ClientIP",
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": seconds}},
    )


def _all(clients: list[str], destination: str, expect: Expectation, *, port: int = 80) -> tuple[Probe, ...]:
    return tuple(probe(client, destination, expect, port=port) for client in clients)


def _stickiness() -> Iterator[Row]:
    three = slice_of("svc1", f"{A}@L {B}@L {C}@R")
    vip = "172.30.7.1"
    outside, pods = to(A, B, C, m=True), to(A, B, C, m=False)
    yield from sequence(
        15,
        "155",
        Step(events=apply(_service(vip), three), probes=(*_all(_clients(1), vip, outside), probe(POD, vip, pods))),
        title="one source sticks to one endpoint, other sources spread",
    )
    vip = "172.30.7.7"
    yield from sequence(
        15,
        "161",
        Step(events=apply(_service(vip), three), probes=_all(_clients(7, MANY), vip, outside)),
        Step(
            events=apply(slice_of("svc1", f"{A}@L {B}@L {C}@R {D}@R")),
            probes=_all(_clients(7, MANY), vip, to(A, B, C, D, m=True)),
        ),
        title=f"{MANY} clients are remembered, none forgotten for another",
        modes=REMEMBERS_MANY,
    )


def _time() -> Iterator[Row]:
    vip = "172.30.7.2"
    everyone = to(A, B, C, m=True)
    yield from sequence(
        15,
        "156",
        Step(
            events=apply(_service(vip, seconds=1), slice_of("svc1", f"{A}@L")),
            probes=_all(_clients(2), vip, to(A, m=True)),
        ),
        Step(
            events=apply(slice_of("svc1", f"{A}@L {B}@L {C}@R")),
            probes=_all(_clients(2), vip, everyone),
            idle_seconds=2.5,
        ),
        title="forgotten after the timeout without a connection",
    )
    vip = "172.30.7.9"
    few = _clients(9, 4)
    yield from sequence(
        15,
        "157",
        Step(events=apply(_service(vip, seconds=3), slice_of("svc1", f"{A}@L")), probes=_all(few, vip, to(A, m=True))),
        Step(
            events=apply(slice_of("svc1", f"{A}@L {B}@L {C}@R")),
            probes=_all(few, vip, everyone),
            idle_seconds=0.7,
            repeats=6,
        ),
        title="each connection renews the time: remembered for longer than the timeout",
    )


def _changes() -> Iterator[Row]:
    vip = "172.30.7.3"
    steps = [f"{A}@L {B}@L {C}@R", f"{A}@L {B}@L", f"{A}@L {B}@L/U {D}@R", f"{A}@L {B}@L {C}@R {D}@R"]
    allowed = [(A, B, C), (A, B), (A, D), (A, B, C, D)]
    yield from sequence(
        15,
        "158",
        *(
            Step(
                events=(*(apply(_service(vip)) if not index else ()), *apply(slice_of("svc1", endpoints))),
                probes=_all(_clients(3), vip, to(*allowed[index], m=True)),
            )
            for index, endpoints in enumerate(steps)
        ),
        title="an endpoint that goes or is not ready loses its clients at once; the others keep theirs",
    )

    vip = "172.30.7.8"
    yield from sequence(
        15,
        "158r",
        Step(
            events=apply(_service(vip), slice_of("svc1", f"{A}@L {C}@R")),
            probes=_all(_clients(8), vip, to(A, C, m=True)),
        ),
        Step(
            events=apply(slice_of("svc1", f"{A}@L {B}@L {C}@R {D}@R")),
            probes=_all(_clients(8), vip, to(A, B, C, D, m=True)),
            disturbance=Disturbance.RESTART,
        ),
        title="a restarted enforcer moves nobody",
    )


def _frontends() -> Iterator[Row]:
    vip = "172.30.7.4"
    ports = (Port(80, "http", node_port=3001), Port(81, "https", node_port=3002))
    endpoints = apply(_service(vip, ports=ports), _two_ports(f"{A}@L"))
    grown = apply(_two_ports(f"{A}@L {B}@L {C}@R"))
    everyone = to(A, B, C, m=True)
    yield from sequence(
        15,
        "159",
        Step(events=endpoints, probes=_all(_clients(4), vip, to(A, m=True))),
        Step(events=grown, probes=_all(_clients(4), PRIMARY, everyone, port=3001)),
        title="the cluster IP first, the node port then: one endpoint",
        modes=NOT_IPVS,
    )
    vip = "172.30.7.5"
    second = to(f"{A}:81", f"{B}:81", f"{C}:81", m=True)
    yield from sequence(
        15,
        "160",
        Step(
            events=apply(_service(vip, ports=ports), _two_ports(f"{A}@L")), probes=_all(_clients(5), vip, to(A, m=True))
        ),
        Step(
            events=grown,
            probes=(*_all(_clients(5), vip, everyone), *_all(_clients(5), vip, second, port=81)),
        ),
        title="two ports of one Service are independent",
    )


def _two_ports(endpoints: str) -> str:
    return slice_of("svc1", endpoints, (_HTTP, _HTTPS))


def _local() -> Iterator[Row]:
    vip = "172.30.7.6"
    ports = (Port(80, node_port=3001),)
    events = apply(_service(vip, etp="Local", ports=ports), slice_of("svc1", f"{A}@L {B}@L {C}@R {D}@R"))
    everyone, local = to(A, B, C, D, m=True), to(A, B, m=False)
    yield from sequence(
        15,
        "162",
        Step(events=events, probes=_all(_clients(6), vip, everyone)),
        Step(probes=_all(_clients(6), LB, local)),
        Step(probes=_all(_clients(6), vip, everyone)),
        Step(probes=_all(_clients(6), PRIMARY, local, port=3001)),
        title="with policy Local remembered within the local set, and one memory for both sets",
        modes=NOT_IPVS,
    )
