# SPDX-License-Identifier: Apache-2.0
"""Section 11: events, then probes."""

from __future__ import annotations

from collections.abc import Iterator

from conformance.addresses import CLIENT, EXTERNAL_IP, POD, PRIMARY, twin_address
from conformance.build import DROP, IPTABLES, NONE, REJECT, listed, probe, sequence, to
from conformance.catalogue.s11_shapes import rows as shape_rows
from conformance.model import Disturbance, Event, Row, Step
from conformance.objects import PROXY_NAME_LABEL, Port, SlicePort, apply, delete, service, service_cidr, slice_of

VIP, OTHER = "172.30.0.41", "172.30.0.42"
A, B, C = "10.180.0.1", "10.180.2.1", "10.180.2.2"
LB = "1.2.3.4"

SERVICE = service("svc1", VIP)
BYSTANDER = apply(service("svc2", OTHER), slice_of("svc2", f"{C}@R"))
UNDISTURBED = probe(POD, OTHER, to(C, m=False))


def rows() -> Iterator[Row]:
    yield from _order()
    yield from _endpoints()
    yield from _ports()
    yield from shape_rows()
    yield from _service_kind()
    yield from _no_ops()
    yield from _faults()
    yield from _proxy_name()
    yield from _service_cidrs()


def _order() -> Iterator[Row]:
    slices = slice_of("svc1", f"{A}@L")
    reached = probe(POD, VIP, to(A, m=False))
    nobody = probe(POD, VIP, DROP)
    yield from sequence(
        11,
        "120",
        Step(events=apply(slices), probes=(nobody,)),
        Step(events=apply(SERVICE), probes=(reached,)),
        title="endpoints before the Service",
    )
    yield from sequence(
        11,
        "121",
        Step(events=apply(SERVICE), probes=(probe(POD, VIP, REJECT),)),
        Step(events=apply(slices), probes=(reached,)),
        title="the Service before its endpoints",
    )
    foreign = probe(POD, "203.0.113.41", NONE)
    for number, first, second, between in (
        ("122", SERVICE, slices, nobody),
        ("122r", slices, SERVICE, probe(POD, VIP, REJECT)),
    ):
        yield from sequence(
            11,
            number,
            Step(events=apply(SERVICE, slices), probes=(reached, foreign)),
            Step(events=delete(first), probes=(between,)),
            Step(events=delete(second), probes=(nobody,)),
            title="deleted one after the other",
        )
    outside_cidr = service("svc1", "172.31.0.41")
    yield from sequence(
        11,
        "122d",
        Step(events=apply(outside_cidr, slices), probes=(probe(POD, "172.31.0.41", to(A, m=False)),)),
        Step(events=delete(outside_cidr, slices), probes=(probe(POD, "172.31.0.41", NONE),)),
        title="a cluster IP outside the service CIDR leaves nothing behind",
    )


def _with(endpoints: str) -> tuple[Event, ...]:
    return apply(slice_of("svc1", endpoints))


def _endpoints() -> Iterator[Row]:
    start = Step(
        events=(*apply(SERVICE), *_with(f"{A}@L"), *BYSTANDER), probes=(probe(POD, VIP, to(A, m=False)), UNDISTURBED)
    )
    yield from sequence(
        11,
        "123",
        start,
        Step(events=_with(f"{B}@R"), probes=(probe(POD, VIP, to(B, m=False)), UNDISTURBED), steady=(UNDISTURBED,)),
        title="an endpoint's address is replaced; other services are undisturbed",
    )
    yield from sequence(
        11,
        "124",
        start,
        Step(events=_with(f"{A}@L {B}@R"), probes=(probe(POD, VIP, to(A, B, m=False)),), steady=(UNDISTURBED,)),
        Step(events=_with(f"{B}@R"), probes=(probe(POD, VIP, to(B, m=False)),), steady=(UNDISTURBED,)),
        title="an endpoint is added, another goes",
    )
    growing = [f"10.180.2.{number}" for number in range(1, 9)]
    steps = [
        Step(
            events=_with(" ".join(f"{address}@R" for address in growing[:count])),
            probes=(probe(POD, VIP, to(*growing[:count], m=False)),),
            steady=(probe(POD, VIP, to(*growing, m=False)),),
        )
        for count in (2, 3, 8, 5, 1)
    ]
    first = Step(
        events=(*apply(SERVICE), *_with(f"{growing[0]}@R")), probes=(probe(POD, VIP, to(growing[0], m=False)),)
    )
    yield from sequence(11, "124d", first, *steps, title="sets grow and shrink without one failed connection")
    yield from sequence(
        11,
        "125",
        start,
        Step(events=_with(""), probes=(probe(POD, VIP, REJECT), UNDISTURBED)),
        Step(events=_with(f"{A}@L"), probes=(probe(POD, VIP, to(A, m=False)),)),
        Step(events=_with(""), probes=(probe(POD, VIP, REJECT),)),
        Step(events=_with(f"{A}@L {B}@R"), probes=(probe(POD, VIP, to(A, B, m=False)),)),
        title="emptied and refilled, twice",
    )


def _ports() -> Iterator[Row]:
    named = service("svc1", VIP, [Port(80, "http")])
    start = Step(
        events=apply(named, slice_of("svc1", f"{A}@L", [SlicePort(80, "http")])),
        probes=(probe(POD, VIP, to(A, m=False)),),
    )
    yield from sequence(
        11,
        "126",
        start,
        Step(events=apply(slice_of("svc1", f"{A}@L", [SlicePort(80, "web")])), probes=(probe(POD, VIP, REJECT),)),
        Step(
            events=apply(slice_of("svc1", f"{A}@L", [SlicePort(8080, "http")])),
            probes=(probe(POD, VIP, to(f"{A}:8080", m=False)),),
        ),
        title="a slice's port is renamed, then back under another number",
    )
    moved = service("svc1", VIP, [Port(81, "http")])
    yield from sequence(
        11,
        "126d",
        start,
        Step(events=apply(moved), probes=(probe(POD, VIP, to(A, m=False), port=81), probe(POD, VIP, REJECT))),
        title="the Service's port is renumbered",
    )


def _service_kind() -> Iterator[Row]:
    """ClusterIP connections go on through every change of type and of the other addresses."""
    slices = slice_of("svc1", f"{A}@L {B}@R")
    inside = probe(POD, VIP, to(A, B, m=False))
    balanced = service(
        "svc1", VIP, [Port(80, node_port=3001)], load_balancer=[LB], external_ips=[EXTERNAL_IP], etp="Cluster"
    )
    extra = ((LB, 80), (EXTERNAL_IP, 80), (PRIMARY, 3001))
    yield from sequence(
        11,
        "130",
        Step(
            events=apply(SERVICE, slices),
            probes=(inside, *(probe(CLIENT, address, NONE, port=port) for address, port in extra)),
            held=(probe(POD, VIP, to(A, B, m=False)),),
        ),
        Step(
            events=apply(balanced),
            probes=(inside, *(probe(CLIENT, address, to(A, B, m=True), port=port) for address, port in extra)),
            steady=(inside,),
        ),
        Step(
            events=apply(SERVICE),
            probes=(inside, *(probe(CLIENT, address, NONE, port=port) for address, port in extra)),
            steady=(inside,),
        ),
        title="ClusterIP to LoadBalancer with a node port and back",
    )
    moved = service("svc1", OTHER)
    yield from sequence(
        11,
        "130d",
        Step(events=apply(SERVICE, slices), probes=(inside,)),
        Step(events=apply(moved), probes=(probe(POD, OTHER, to(A, B, m=False)), probe(POD, VIP, DROP))),
        title="the cluster IP changes",
    )
    policies = [
        Step(
            events=apply(service("svc1", VIP, [Port(80, node_port=3001)], etp=etp, itp=itp)),
            probes=(
                probe(POD, VIP, to(*((A,) if itp == "Local" else (A, B)), m=False)),
                probe(CLIENT, PRIMARY, to(A, m=False) if etp == "Local" else to(A, B, m=True), port=3001),
            ),
            steady=(inside,) if index else (),
        )
        for index, (etp, itp) in enumerate(
            (
                ("Cluster", "Cluster"),
                ("Local", "Cluster"),
                ("Local", "Local"),
                ("Cluster", "Local"),
                ("Cluster", "Cluster"),
            )
        )
    ]
    first, *rest = policies
    whole = Step(events=(*first.events, *apply(slices)), probes=first.probes)
    yield from sequence(11, "130p", whole, *rest, title="traffic policies flip under traffic")


def _no_ops() -> Iterator[Row]:
    slices = slice_of("svc1", f"{A}@L {B}@R")
    reached = probe(POD, VIP, to(A, B, m=False))
    brief = service("svc9", "172.30.0.49")
    yield from sequence(
        11,
        "132",
        Step(events=apply(SERVICE, slices), probes=(reached,)),
        Step(
            events=apply(brief) + delete(brief),
            probes=(reached, probe(POD, "172.30.0.49", DROP)),
            steady=(reached,),
        ),
        Step(events=apply(slice_of("svc1", f"{B}@R {A}@L")), probes=(reached,), steady=(reached,)),
        title="added and deleted at once; only reordered",
    )


def _faults() -> Iterator[Row]:
    slices = slice_of("svc1", f"{A}@L")
    third = apply(service("svc3", "172.30.0.43"), slice_of("svc3", f"{B}@R"))
    gone = service("svc4", "172.30.0.44")
    yield from sequence(
        11,
        "133",
        Step(
            events=apply(SERVICE, slices, gone),
            probes=(probe(POD, VIP, to(A, m=False)), probe(POD, "172.30.0.44", REJECT)),
        ),
        Step(
            events=(*third, *delete(gone)),
            probes=(probe(POD, "172.30.0.43", to(B, m=False)), probe(POD, "172.30.0.44", DROP)),
            steady=(probe(POD, VIP, to(A, m=False)),),
            disturbance=Disturbance.WRITE_FAILS_ONCE,
        ),
        title="the kernel refuses the first write: the next attempt converges, deletion included",
    )
    yield from listed(11, "134", "crossing 1000 endpoints", modes=IPTABLES)
    yield from sequence(
        11,
        "135",
        Step(events=(*apply(SERVICE, slices), *BYSTANDER), probes=(probe(POD, VIP, to(A, m=False)), UNDISTURBED)),
        Step(
            events=(*apply(slice_of("svc1", f"{A}@L {B}@R")), *third),
            probes=(probe(POD, VIP, to(A, B, m=False)), probe(POD, "172.30.0.43", to(B, m=False)), UNDISTURBED),
            steady=(probe(POD, VIP, to(A, B, m=False)), UNDISTURBED),
            disturbance=Disturbance.RESTART,
        ),
        title="restarted on its own rules while services changed: no moment without the old ones",
    )


def _proxy_name() -> Iterator[Row]:
    slices = slice_of("svc1", f"{A}@L")
    labelled = service("svc1", VIP, labels={PROXY_NAME_LABEL: "other"})
    reached, nobody = probe(POD, VIP, to(A, m=False)), probe(POD, VIP, DROP)
    yield from sequence(
        11,
        "136",
        Step(events=apply(SERVICE, slices), probes=(reached,)),
        Step(events=apply(labelled), probes=(nobody,)),
        Step(events=apply(SERVICE), probes=(reached,)),
        title="label service-proxy-name appears and goes",
    )


def _service_cidrs() -> Iterator[Row]:
    address = "172.31.0.41"
    more = service_cidr("172.31.0.0/16", twin_address("172.31.0.0/16"), name="more")
    subject = apply(service("svc1", address), slice_of("svc1", f"{A}@L"))
    nobody, untouched = probe(POD, address, DROP), probe(POD, address, NONE)
    yield from sequence(
        11,
        "122c.d",
        Step(events=(), probes=(untouched,)),
        Step(events=apply(more), probes=(nobody,)),
        Step(events=subject, probes=(probe(POD, address, to(A, m=False)), probe(POD, address, REJECT, port=81))),
        Step(events=delete(service("svc1", address)), probes=(nobody,)),
        Step(events=delete(more), probes=(untouched,)),
        title="a ServiceCIDR appears and goes",
    )
