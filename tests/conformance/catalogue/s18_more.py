# SPDX-License-Identifier: Apache-2.0
"""Section 18: where the modes of kube-proxy differ; every mode here behaves like its nftables column."""

from __future__ import annotations

from collections.abc import Iterator

from conformance.addresses import BLOCKED_CLIENT, CLIENT, EXTERNAL_IP, POD, PRIMARY, SECONDARY
from conformance.build import DROP, NONE, REJECT, case, probe, sequence, to
from conformance.model import Disturbance, NodeSettings, Row, Step
from conformance.objects import Port, apply, service, slice_of

VIP, LB, EXTERNAL = "172.30.0.41", "1.2.3.4", "192.168.98.11"
A, B = "10.180.0.1", "10.180.2.1"
PORTS = (Port(80, node_port=3001),)
_ACKNOWLEDGED_SECONDS = 0.3
"""Later, no acknowledgement of an open connection is under way that would go to the cluster IP untranslated."""
PRIMARY_ONLY = NodeSettings(node_port_addresses=("primary",))


def rows() -> Iterator[Row]:
    bare = apply(service("svc1", VIP, PORTS, load_balancer=[LB], external_ips=[EXTERNAL]))
    yield from case(18, "177", bare, probe(PRIMARY, LB, REJECT), probe(PRIMARY, EXTERNAL, REJECT))
    filtered = apply(service("svc1", VIP, PORTS, load_balancer=[LB], ranges=["203.0.113.0/25"]))
    yield from case(18, "178", filtered, probe(PRIMARY, LB, DROP))
    yield from case(
        18,
        "178d",
        filtered,
        probe(CLIENT, LB, REJECT),
        probe(BLOCKED_CLIENT, LB, DROP),
        probe(POD, LB, DROP),
        title="without endpoints: sources outside the ranges are dropped, others rejected",
    )
    beside = probe(CLIENT, SECONDARY, NONE, port=3001)
    yield from case(18, "179", bare, beside, probe(CLIENT, PRIMARY, REJECT, port=3001), settings=PRIMARY_ONLY)
    local = service("svc1", VIP, PORTS, etp="Local", external_ips=[EXTERNAL_IP])
    yield from case(
        18,
        "179d",
        apply(local, slice_of("svc1", f"{A}@R")),
        beside,
        probe(CLIENT, PRIMARY, DROP, port=3001),
        settings=PRIMARY_ONLY,
        title="the same with only remote endpoints and policy Local",
    )
    yield from _destroyed()


def _destroyed() -> Iterator[Row]:
    """What a node is asked, asked again after its rules were destroyed: no event brings them back."""
    state = apply(
        service("svc1", VIP, PORTS, load_balancer=[LB], ranges=["203.0.113.0/25"], external_ips=[EXTERNAL]),
        service("svc2", "172.30.0.42"),
        slice_of("svc1", f"{A}@L {B}@R"),
    )
    probes = (
        probe(POD, VIP, to(A, B, m=False)),
        probe(CLIENT, PRIMARY, to(A, B, m=True), port=3001),
        probe(CLIENT, LB, to(A, B, m=True)),
        probe(BLOCKED_CLIENT, LB, DROP),
        probe(A, VIP, to(A, B, m=False)),
        probe(POD, "172.30.0.42", REJECT),
        probe(POD, "172.30.0.50", DROP),
    )
    flushed = Step(probes=probes, disturbance=Disturbance.FLUSHED)
    yield from sequence(
        18,
        "180",
        Step(events=state, probes=probes, held=(probe(POD, VIP, to(A, B, m=False)),)),
        Step(probes=probes, idle_seconds=_ACKNOWLEDGED_SECONDS),
        flushed,
        title="the whole ruleset is flushed by somebody else: back within 2 s; silent connections live on",
    )
    yield from sequence(
        18,
        "180d",
        Step(events=state, probes=probes),
        flushed,
        flushed,
        Step(events=apply(slice_of("svc1", f"{A}@L")), probes=(probe(POD, VIP, to(A, m=False)),)),
        title="flushed twice, then changed",
    )
