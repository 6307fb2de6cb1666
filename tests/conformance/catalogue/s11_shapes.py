# SPDX-License-Identifier: Apache-2.0
"""Section 11, rows 127-131: several slices, slices and Services that do not count, families."""

from __future__ import annotations

import json
from collections.abc import Iterator

from conformance.addresses import POD, twin_address
from conformance.build import DROP, NONE, REJECT, case, probe, sequence, to
from conformance.model import Expectation, Probe, Row, Step
from conformance.objects import SERVICE_NAME_LABEL, Port, SlicePort, apply, delete, service, slice_of

VIP = "172.30.0.41"
A, B, C = "10.180.0.1", "10.180.2.1", "10.180.2.2"
SERVICE = service("svc1", VIP)


def rows() -> Iterator[Row]:
    yield from _several_slices()
    yield from _ignored_slices()
    yield from _ignored_services()
    yield from _families()


def _pod(expect: Expectation) -> Probe:
    return probe(POD, VIP, expect)


def _several_slices() -> Iterator[Row]:
    one = slice_of("svc1", f"{A}@L {B}@R", slice_name="svc1-a")
    two = slice_of("svc1", f"{B}@R {C}@R", slice_name="svc1-b")
    yield from sequence(
        11,
        "127",
        Step(events=apply(SERVICE, one), probes=(_pod(to(A, B, m=False)),)),
        Step(events=apply(two), probes=(_pod(to(A, B, C, m=False)),)),
        Step(events=delete(one), probes=(_pod(to(B, C, m=False)),)),
        Step(events=delete(two), probes=(_pod(REJECT),)),
        title="overlapping slices: their union, and what remains of it",
    )
    other = json.loads(one)
    other["metadata"]["labels"][SERVICE_NAME_LABEL] = "svc2"
    moved = json.dumps(other, separators=(",", ":"))
    yield from sequence(
        11,
        "127d",
        Step(events=apply(SERVICE, service("svc2", "172.30.0.42"), one), probes=(_pod(to(A, B, m=False)),)),
        Step(events=apply(moved), probes=(_pod(REJECT), probe(POD, "172.30.0.42", to(A, B, m=False)))),
        title="a slice's label moves it to another Service",
    )
    yield from case(
        11,
        "129",
        apply(
            SERVICE,
            slice_of("svc1", f"{A}@L", [SlicePort(80)], slice_name="svc1-a"),
            slice_of("svc1", f"{A}@L", [SlicePort(8080)], slice_name="svc1-b"),
        ),
        _pod(to(f"{A}:80", f"{A}:8080", m=False)),
        title="one address, different ports in two slices",
    )


def _ignored_slices() -> Iterator[Row]:
    good = slice_of("svc1", f"{A}@L")
    names = [{"addresses": ["pod.example.com"], "conditions": {"ready": True}}]
    empty = [{"addresses": [], "conditions": {"ready": True}}]
    broken = [{"addresses": ["10.180.0.300"], "conditions": {"ready": True}}]
    ignored = {
        "128": slice_of("svc1", names, slice_name="svc1-x", address_type="FQDN"),
        "128l": slice_of(None, f"{B}@R", slice_name="svc1-x"),
        "128n": slice_of("svc1", f"{B}@R", [SlicePort(80, None)], slice_name="svc1-x"),
        "128p": slice_of("svc1", f"{B}@R", [SlicePort(None)], slice_name="svc1-x"),
        "128o": slice_of("svc1", f"{B}@R", [SlicePort(80, "", "UDP")], slice_name="svc1-x"),
        "128e": slice_of("svc1", empty, slice_name="svc1-x", address_type="IPv4"),
        "128b": slice_of("svc1", broken, slice_name="svc1-x", address_type="IPv4"),
        "128a": slice_of("svc2", f"{B}@R", slice_name="svc1-x"),
    }
    titles = {
        "128": "an FQDN slice",
        "128l": "a slice without the service-name label",
        "128n": "a port without a name field",
        "128p": "a port without a number",
        "128o": "a port of the same name and another protocol",
        "128e": "an endpoint without addresses",
        "128b": "an endpoint whose address is no address",
        "128a": "a slice of another Service",
    }
    for number, item in ignored.items():
        yield from sequence(
            11,
            number,
            Step(events=apply(SERVICE, good), probes=(_pod(to(A, m=False)),)),
            Step(events=apply(item), probes=(_pod(to(A, m=False)),)),
            Step(events=delete(good), probes=(_pod(REJECT),)),
            title=f"no effect: {titles[number]}",
        )


def _ignored_services() -> Iterator[Row]:
    slices = slice_of("svc1", f"{A}@L")
    headless = service("svc1", "None", ipFamilies=["IPv4"])
    yield from case(11, "131", apply(headless, slices), _pod(DROP), title="a headless Service programs nothing")
    alias = service("svc1", VIP, type="ExternalName", externalName="example.com")
    yield from case(11, "131x", apply(alias, slices), _pod(DROP), title="an ExternalName Service programs nothing")
    yield from sequence(
        11,
        "131y",
        Step(events=apply(SERVICE, slices), probes=(_pod(to(A, m=False)),)),
        Step(events=apply(alias), probes=(_pod(DROP),)),
        title="a Service becomes ExternalName",
    )


def _families() -> Iterator[Row]:
    six = twin_address(VIP)
    other_only = apply(service("svc1", six, [Port(80, node_port=3001)]), slice_of("svc1", f"{twin_address(A)}@L"))
    yield from case(
        11,
        "131f",
        other_only,
        _pod(DROP),
        probe(POD, "192.168.0.2", NONE, port=3001),
        probe(twin_address(POD), six, to(twin_address(A), m=False)),
        title="a Service of one family is invisible to the other",
    )
    dual = service("svc1", (VIP, six))
    only_four = slice_of("svc1", f"{A}@L")
    six_slice = slice_of("svc1", f"{twin_address(B)}@R", slice_name="svc1-2")
    six_probe = probe(twin_address(POD), six, REJECT)
    yield from sequence(
        11,
        "131s",
        Step(events=apply(dual, only_four), probes=(_pod(to(A, m=False)), six_probe)),
        Step(
            events=apply(six_slice),
            probes=(_pod(to(A, m=False)), six_probe._replace(expect=to(twin_address(B), m=False))),
        ),
        title="dual stack: each family uses its own slices",
    )
