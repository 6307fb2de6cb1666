# SPDX-License-Identifier: Apache-2.0
"""How rows are written: expectations, probes and row makers that add the twin of the other family."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from typing import Any

from conformance import objects
from conformance.addresses import NODE_ADDRESSES, POD_CIDRS, twin_row
from conformance.model import (
    EVERY_MODE,
    NODE,
    Check,
    Event,
    Expectation,
    IpFamily,
    Origin,
    Outcome,
    Probe,
    Row,
    Step,
    Target,
)

REJECT = Expectation(Outcome.REJECT)
DROP = Expectation(Outcome.DROP)
NONE = Expectation(Outcome.NONE)

NFTABLES = frozenset({"nftables"})
IPTABLES = frozenset({"iptables"})
IPVS = frozenset({"ipvs"})
NOT_NFTABLES = IPTABLES | IPVS

_POD_NETWORKS = [ipaddress.ip_network(cidr) for cidr in POD_CIDRS]


def to(*targets: str, m: bool) -> Expectation:
    """Forwarded to each of these (`address` or `address:port` in IPv4, `[address]:port`), with or
    without masquerade.
    """
    return Expectation(Outcome.FORWARD, tuple(sorted(Target(*_split(text), m) for text in targets)))


def _split(text: str) -> tuple[str, int]:
    if text.startswith("["):
        address, _, port = text[1:].partition("]:")
        return address, int(port)
    address, _, port = (text, "", "") if text.count(":") > 1 else text.partition(":")
    return address, int(port or 80)


def probe(
    source: str,
    destination: str,
    expect: Expectation,
    *,
    port: int = 80,
    protocol: str = "TCP",
    origin: Origin | None = None,
) -> Probe:
    """A probe; an endpoint that probes itself is masqueraded when chosen (hairpin), whatever `expect` says."""
    targets = tuple(sorted(t._replace(masquerade=t.masquerade or t.address == source) for t in expect.targets))
    return Probe(source, destination, port, protocol, origin or origin_of(source), expect._replace(targets=targets))


def origin_of(source: str, extra: Sequence[str] = ()) -> Origin:
    """Where the catalogue's conventions put an address."""
    address = ipaddress.ip_address(source)
    if source in NODE_ADDRESSES or source in extra or address.is_loopback:
        return Origin.HOST
    return Origin.POD if any(address in network for network in _POD_NETWORKS) else Origin.OUTSIDE


def case(
    section: int,
    number: str,
    state: Sequence[Event],
    *probes: Probe,
    title: str = "",
    zone: str | None = None,
    **fields: Any,
) -> Iterator[Row]:
    """A row of one state, and its twin. The Node and the ServiceCIDR of the catalogue come first."""
    yield from sequence(section, number, Step(events=tuple(state), probes=probes), title=title, zone=zone, **fields)


def sequence(
    section: int,
    number: str,
    *steps: Step,
    title: str = "",
    zone: str | None = None,
    has_twin: bool = True,
    family: IpFamily = IpFamily.IPV4,
    node_name: str = NODE,
    **fields: Any,
) -> Iterator[Row]:
    """A row of several steps, and its twin."""
    surroundings = objects.apply(objects.node(node_name, zone=zone), objects.service_cidr())
    first = Step(
        events=surroundings + steps[0].events,
        probes=steps[0].probes,
        steady=steps[0].steady,
        held=steps[0].held,
        disturbance=steps[0].disturbance,
    )
    row = Row(
        number=number,
        section=section,
        family=family,
        title=title,
        steps=(first, *steps[1:]),
        node_name=node_name,
        **fields,
    )
    yield row
    if has_twin:
        yield twin_row(row)


def checked(
    section: int, number: str, title: str, check: Check, *, modes: frozenset[str] = EVERY_MODE
) -> Iterator[Row]:
    """A row about something else than where packets go, in both families."""
    for family in IpFamily:
        yield Row(number=number, section=section, family=family, title=title, check=check, modes=modes)


def listed(
    section: int, number: str, title: str, *, modes: frozenset[str] = EVERY_MODE, later: str = ""
) -> Iterator[Row]:
    """A row that this suite names and does not run: it belongs to other modes, or to work that is still to come."""
    for family in IpFamily:
        yield Row(number=number, section=section, family=family, title=title, modes=modes, later=later)
