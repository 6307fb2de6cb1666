# SPDX-License-Identifier: Apache-2.0
"""Section 1: cluster IPs."""

from __future__ import annotations

from collections.abc import Iterator

from conformance.addresses import CLIENT, POD, PRIMARY, SECONDARY
from conformance.build import DROP, NONE, REJECT, case, probe, to
from conformance.model import Row
from conformance.objects import Port, SlicePort, apply, service, slice_of

SVC1, SVC2 = "172.30.0.41", "172.30.0.42"
A, B = "10.180.0.1", "10.180.2.1"
FROM = "10.180.0.2"

STATE = apply(
    service("svc1", SVC1, [Port(80, "http")]),
    slice_of("svc1", f"{A}@L", [SlicePort(80, "http")]),
    service(
        "svc2",
        SVC2,
        [
            Port(80, "http"),
            Port(443, "https"),
            Port(53, "dns-udp", "UDP"),
            Port(53, "dns-tcp", "TCP"),
            Port(53, "dns-sctp", "SCTP"),
        ],
    ),
    slice_of(
        "svc2",
        f"{A}@L {B}@R",
        [
            SlicePort(80, "http"),
            SlicePort(8443, "https"),
            SlicePort(53, "dns-udp", "UDP"),
            SlicePort(5353, "dns-tcp", "TCP"),
            SlicePort(53, "dns-sctp", "SCTP"),
        ],
    ),
)


def _both(port: int) -> tuple[str, str]:
    return f"{A}:{port}", f"{B}:{port}"


def rows() -> Iterator[Row]:
    yield from _catalogue()
    yield from _host_network()


def _host_network() -> Iterator[Row]:
    """Endpoints that are the node itself, and another node, as those of `default/kubernetes` are.

    From outside only where no masquerade is asked for: what stays on the node passes no postrouting, so the endpoint
    sees the client's address whatever the plan says, in every proxy.
    """
    there, balanced = "192.168.0.3", "1.2.3.4"
    subject = service("svc1", SVC1, load_balancer=[balanced], etp="Local")
    both = apply(subject, slice_of("svc1", f"{PRIMARY}@L {there}@R"))
    yield from case(
        1,
        "13d",
        both,
        probe(FROM, SVC1, to(PRIMARY, there, m=False)),
        probe(SECONDARY, SVC1, to(PRIMARY, there, m=True)),
        probe(CLIENT, balanced, to(PRIMARY, m=False)),
        title="host-network endpoints",
    )


def _catalogue() -> Iterator[Row]:
    yield from case(1, "1", STATE, probe(FROM, SVC1, to(A, m=False)))
    yield from case(1, "2d", STATE, probe(PRIMARY, SVC1, to(A, m=True)), probe(CLIENT, SVC2, to(A, B, m=True)))
    yield from case(1, "3", STATE, probe(FROM, SVC2, to(A, B, m=False)))
    yield from case(1, "4", STATE, probe(FROM, SVC2, to(*_both(8443), m=False), port=443))
    yield from case(1, "5", STATE, probe(FROM, SVC2, to(*_both(5353), m=False), port=53))
    yield from case(1, "6", STATE, probe(FROM, SVC2, to(*_both(53), m=False), port=53, protocol="UDP"))
    yield from case(1, "7", STATE, probe(FROM, SVC2, to(*_both(53), m=False), port=53, protocol="SCTP"))
    yield from case(1, "8", STATE, probe(FROM, SVC2, REJECT, protocol="UDP"))
    yield from case(
        1,
        "8d",
        STATE,
        probe(FROM, SVC1, REJECT, port=81),
        probe(PRIMARY, SVC2, REJECT, port=81),
        probe(CLIENT, SVC2, REJECT, port=443, protocol="UDP"),
        probe(FROM, SVC1, REJECT, protocol="SCTP"),
    )
    yield from case(1, "10", STATE, probe(FROM, "172.30.0.50", DROP))
    yield from case(
        1,
        "10d",
        STATE,
        probe(PRIMARY, "172.30.0.50", DROP),
        probe(CLIENT, "172.30.0.50", DROP),
        probe(FROM, "172.30.0.50", DROP, protocol="UDP", port=53),
    )
    yield from case(1, "11", STATE, probe(POD, "10.0.0.3", NONE))
    yield from case(1, "12", STATE, probe(A, SVC2, to(A, B, m=False)), title="hairpin is per chosen endpoint")
    yield from case(
        1,
        "12d",
        STATE,
        probe(A, SVC1, to(A, m=False)),
        probe(A, SVC2, to(*_both(53), m=False), port=53, protocol="UDP"),
        title="hairpin to the only endpoint; hairpin over UDP",
    )
