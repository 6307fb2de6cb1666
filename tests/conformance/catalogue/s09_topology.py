# SPDX-License-Identifier: Apache-2.0
"""Section 9: topology hints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from conformance.addresses import CLIENT, POD, PRIMARY
from conformance.build import case, probe, sequence, to
from conformance.model import Event, Row, Step
from conformance.objects import Port, apply, endpoint, node, service, slice_of

VIP, LB = "172.30.1.1", "1.2.3.4"
THREE, FOUR, FIVE, SIX = (f"10.1.2.{number}" for number in range(3, 7))
ALL = (THREE, FOUR, FIVE, SIX)
ZONES = {THREE: "zone-a", FOUR: "zone-b", FIVE: "zone-c", SIX: "zone-a"}
Hints = Mapping[str, Sequence[str]]


def _endpoints(
    zones: Hints, nodes: Hints | None = None, flags: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    return [
        endpoint(
            f"{address}{(flags or {}).get(address, '@R')}",
            zones=zones.get(address, ()),
            nodes=(nodes or {}).get(address, ()),
            zone=ZONES[address],
        )
        for address in ALL
    ]


def _state(endpoints: list[dict[str, Any]], **spec: Any) -> tuple[Event, ...]:
    return apply(service("svc1", VIP, **spec), slice_of("svc1", endpoints))


def _case(
    number: str, endpoints: list[dict[str, Any]], *expected: str, zone: str | None = "zone-a", node_name: str = "node-1"
) -> Iterator[Row]:
    yield from case(
        9, number, _state(endpoints), probe(POD, VIP, to(*expected, m=False)), zone=zone, node_name=node_name
    )


def rows() -> Iterator[Row]:
    hinted: Hints = {address: (zone,) for address, zone in ZONES.items()}
    yield from _case("101", _endpoints(hinted), THREE, SIX)
    yield from _case("102", _endpoints(hinted), *ALL, zone=None)
    yield from _case("102e", _endpoints(hinted), *ALL, zone="")
    only = [endpoint(f"{THREE}@R", zones=["zone-a"])]
    yield from _case("103", only, THREE, zone="zone-b")
    yield from _case("104", _endpoints(hinted, flags={SIX: "@R/U"}), THREE)
    unhinted = {address: zones for address, zones in hinted.items() if address != SIX}
    yield from _case("105d", _endpoints(unhinted), *ALL)
    yield from _case("106d", _endpoints(unhinted, flags={SIX: "@R/U"}), THREE)
    many: Hints = {
        THREE: ("zone-a", "zone-b", "zone-c"),
        FOUR: ("zone-b", "zone-c"),
        FIVE: ("zone-b", "zone-d"),
        SIX: ("zone-c",),
    }
    yield from _case("107", _endpoints(many), THREE, FOUR, SIX, zone="zone-c")
    yield from _node_hints(hinted)
    yield from _policies(hinted)
    yield from _changing(hinted)


def _node_hints(zones: Hints) -> Iterator[Row]:
    nodes: Hints = {THREE: ("node-1",), FOUR: ("node-2",), FIVE: ("node-3",), SIX: ("node-4",)}
    yield from _case("108", _endpoints(zones, nodes), THREE)
    bare = {THREE: (), FOUR: nodes[FOUR], FIVE: nodes[FIVE], SIX: nodes[SIX]}
    no_zone = {address: hints for address, hints in zones.items() if address != THREE}
    yield from _case("109", _endpoints(no_zone, bare), *ALL)
    yield from _case("110", _endpoints(zones, nodes), THREE, SIX, node_name="node-0")
    yield from _case("111d", _endpoints(zones, {SIX: ("node-1",)}), THREE, SIX)


def _policies(zones: Hints) -> Iterator[Row]:
    here = {THREE: "@node-1", FOUR: "@node-1"}
    state = _state(_endpoints(zones, flags=here), ports=[Port(80, node_port=3001)], itp="Local", etp="Cluster")
    where = {"zone": "zone-a", "node_name": "node-1"}
    inside = probe(POD, VIP, to(THREE, FOUR, m=False))
    outside = probe(CLIENT, PRIMARY, to(THREE, SIX, m=True), port=3001)
    yield from case(9, "112", state, inside, outside, **where)
    short = _state(_endpoints(zones, flags=here), load_balancer=[LB], etp="Local")
    yield from case(
        9,
        "113d",
        short,
        probe(POD, LB, to(THREE, SIX, m=False)),
        probe(PRIMARY, LB, to(THREE, SIX, m=True)),
        probe(CLIENT, LB, to(THREE, FOUR, m=False)),
        title="hints apply to the short circuit, never to the local set",
        **where,
    )


def _changing(zones: Hints) -> Iterator[Row]:
    yield from sequence(
        9,
        "114",
        Step(events=_state(_endpoints(zones)), probes=(probe(POD, VIP, to(THREE, SIX, m=False)),)),
        Step(events=apply(node("node-1", zone="zone-b")), probes=(probe(POD, VIP, to(FOUR, m=False)),)),
        Step(events=apply(node("node-1")), probes=(probe(POD, VIP, to(*ALL, m=False)),)),
        Step(events=apply(node("node-1", zone="zone-c")), probes=(probe(POD, VIP, to(FIVE, m=False)),)),
        zone="zone-a",
        node_name="node-1",
        title="the node's zone changes without any other event",
    )
