# SPDX-License-Identifier: Apache-2.0
"""Section 17: manners towards the rest of the node, and towards those who damage what is ours."""

from __future__ import annotations

from collections.abc import Iterator

from conformance.addresses import CLIENT, POD, PRIMARY
from conformance.build import DROP, IPTABLES, IPVS, REJECT, checked, probe, sequence, to
from conformance.checks import firewall, hygiene, ipvs
from conformance.model import EVERY_MODE, Disturbance, Row, Step
from conformance.objects import Port, apply, service, slice_of

VIP, A, B = "172.30.0.41", "10.180.0.1", "10.180.2.1"


def rows() -> Iterator[Row]:
    yield from checked(
        17, "172", "passes a FORWARD policy DROP", firewall.forwards_where_all_is_dropped, modes=IPTABLES
    )
    yield from checked(
        17, "173", "packets of state INVALID are dropped", firewall.drops_invalid_packets, modes=IPTABLES
    )
    yield from checked(17, "172v", "passes a FORWARD policy DROP", firewall.forwards_where_all_is_dropped, modes=IPVS)
    yield from checked(17, "173v", "packets of state INVALID are dropped", firewall.drops_invalid_packets, modes=IPVS)
    yield from checked(17, "174v", "no packet leaves with a mark", ipvs.marks_are_cleared, modes=IPVS)
    yield from checked(17, "175v", "what is others' is left alone", ipvs.others_are_left_alone, modes=IPVS)
    yield from checked(
        17,
        "53",
        "packets from elsewhere to 127.0.0.1 are dropped",
        firewall.drops_martians,
        modes=IPTABLES,
    )
    yield from checked(
        17, "76", "the health check port is accepted explicitly", firewall.accepts_health_checks, modes=IPTABLES
    )
    yield from checked(
        17, "174", "the mark is gone after masquerade", hygiene.marks_are_cleared, modes=EVERY_MODE - IPVS
    )
    yield from checked(
        17, "175", "rules of others are left alone", hygiene.others_are_left_alone, modes=EVERY_MODE - IPVS
    )
    yield from _damaged()


def _damaged() -> Iterator[Row]:
    state = apply(
        service("svc1", VIP, [Port(80, node_port=3001)]),
        service("svc2", "172.30.0.42"),
        slice_of("svc1", f"{A}@L {B}@R"),
    )
    probes = (
        probe(POD, VIP, to(A, B, m=False)),
        probe(CLIENT, PRIMARY, to(A, B, m=True), port=3001),
        probe(POD, "172.30.0.42", REJECT),
        probe(POD, "172.30.0.50", DROP),
    )
    yield from sequence(
        17,
        "176",
        Step(events=state, probes=probes),
        Step(probes=probes, disturbance=Disturbance.CHAIN_FLUSHED),
        title="one chain of ours is emptied by somebody else: noticed, and written anew within 2 s",
    )
