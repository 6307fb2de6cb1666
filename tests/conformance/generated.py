# SPDX-License-Identifier: Apache-2.0
"""Rows by the dozen: random clusters that change, random probes of them, judged by the oracle.

Here Services come, change and go, share addresses and contend for them, the node moves to another zone or gets other
addresses, enforcers are restarted and rules flushed; `systematic` has what stands still.

Equal seeds give equal rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

from conformance import oracle
from conformance.addresses import BLOCKED_CLIENT, CLIENT, EXTERNAL_IP, NODE_ADDRESSES, POD, PRIMARY, SECONDARY
from conformance.build import NONE, probe, sequence
from conformance.model import Disturbance, Event, NodeSettings, Probe, Row, Step
from conformance.objects import (
    PROXY_NAME_LABEL,
    Port,
    SlicePort,
    apply,
    delete,
    node,
    service,
    service_cidr,
    slice_of,
)

SECTION = 19
_SERVICES = 3
_PROBES = 14
_NO_DETECTOR = NodeSettings(detect_local_mode="", cluster_cidrs=())
_SETTINGS = (
    NodeSettings(),
    NodeSettings(masquerade_all=True),
    NodeSettings(node_port_addresses=("primary",)),
    NodeSettings(detect_local_mode="InterfaceNamePrefix", interface="pod", cluster_cidrs=()),
    _NO_DETECTOR,
    replace(_NO_DETECTOR, masquerade_all=True),
)
_VIPS = ("172.30.0.41", "172.30.0.42", "172.30.0.43")
_LOAD_BALANCERS = ("1.2.3.4", "5.6.7.8")
_EXTERNAL_IPS = (EXTERNAL_IP, "192.168.98.11")
_LOCAL_ENDPOINTS = ("10.180.0.1", "10.180.0.2", "10.180.0.3")
_REMOTE_ENDPOINTS = ("10.180.2.1", "10.180.2.2", "10.180.2.3")
_RANGES = ((), (), ("203.0.113.0/25",), ("192.168.0.0/24",), ("10.0.0.0/8", "203.0.113.0/25"))
_SOURCES = (POD, POD, PRIMARY, SECONDARY, CLIENT, CLIENT, BLOCKED_CLIENT, *_LOCAL_ENDPOINTS)
_NODE_ADDRESSES = NODE_ADDRESSES[:4]
_EXCHANGED = (*NODE_ADDRESSES[2:4], *NODE_ADDRESSES[:2])
"""Primary and secondary, the other way round."""
_ZONES = ("zone-a", "zone-b", None)
_MORE_CIDRS = ("172.31.0.0/16",)
_DISTURBANCES = (*[Disturbance.NOTHING] * 4, Disturbance.RESTART, Disturbance.FLUSHED, Disturbance.CHAIN_FLUSHED)
_PORT_NUMBERS = (80, 443, 53)
_NODE_PORT_BASE = 3001


def rows(count: int, *, seed: int) -> Iterator[Row]:
    """`count` rows and the twin of each."""
    random = Random(seed)
    for number in range(count):
        drafts = sequence(
            SECTION,
            f"{seed}.{number}",
            *_History(random).steps(),
            settings=random.choice(_SETTINGS),
            title=f"generated, seed {seed}",
        )
        yield from map(oracle.judge, drafts)


class _History:
    """What happens to one cluster. What a Service was called for is remembered, so that probes come late, too."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._alive: dict[int, str] = {}
        self._slices: dict[str, str] = {}
        self._ports: set[Port] = set()

    def steps(self) -> Iterator[Step]:
        """One to four steps; from the second on, more may happen than changes of Services."""
        for number in range(self._random.randint(1, 4)):
            events = [event for service_number in range(_SERVICES) for event in self._service_events(service_number)]
            disturbance = Disturbance.NOTHING
            if number:
                events += self._surroundings()
                disturbance = self._random.choice(_DISTURBANCES)
            probes = _probes(self._random, sorted(self._ports))
            yield Step(events=tuple(events), probes=probes, disturbance=disturbance)

    def _service_events(self, number: int) -> Iterator[Event]:
        random = self._random
        if random.random() > 0.6:
            return
        if number in self._alive and random.random() < 0.2:
            yield from delete(self._alive.pop(number))
            return
        of_service = _ports(random, number)
        self._ports.update(of_service)
        self._alive[number] = _service(random, number, of_service)
        pieces = [
            slice_of(f"svc{number}", endpoints, _slice_ports(random, of_service), slice_name=f"svc{number}-{half}")
            for half, endpoints in enumerate(_endpoints(random))
        ]
        changed = [*apply(self._alive[number]), *apply(*pieces)]
        random.shuffle(changed)
        yield from changed
        name = f"svc{number}-1"
        if len(pieces) > 1:
            self._slices[name] = pieces[1]
        elif name in self._slices:
            yield from delete(self._slices.pop(name))

    def _surroundings(self) -> Iterator[Event]:
        """The node, and which addresses are Services': one of these changes now and then."""
        random = self._random
        if random.random() < 0.3:
            addresses = random.choice((_NODE_ADDRESSES, _EXCHANGED))
            yield from apply(node(zone=random.choice(_ZONES), addresses=addresses))
        if random.random() < 0.2:
            yield from random.choice((apply, delete))(service_cidr(*_MORE_CIDRS, name="more"))


def _ports(random: Random, number: int) -> list[Port]:
    base = _NODE_PORT_BASE + 10 * number
    return [
        Port(port, f"p{index}", random.choice(("TCP", "TCP", "UDP")), random.choice((0, base + index)))
        for index, port in enumerate(_PORT_NUMBERS[: random.choice((1, 1, 2, 3))])
    ]


def _service(random: Random, number: int, ports: Sequence[Port]) -> str:
    balancers = random.sample(_LOAD_BALANCERS, random.choice((0, 1, 1, 2)))
    ingress = [(ip, random.choice(("VIP", "VIP", "VIP", "Proxy"))) for ip in balancers]
    return service(
        f"svc{number}",
        _VIPS[number],
        ports,
        load_balancer=ingress,
        external_ips=random.sample(_EXTERNAL_IPS, random.choice((0, 0, 1))),
        etp=random.choice(("Cluster", "Local")),
        itp=random.choice(("Cluster", "Cluster", "Local")),
        ranges=random.choice(_RANGES) if ingress else (),
        labels={PROXY_NAME_LABEL: "other"} if random.random() < 0.05 else None,
    )


def _endpoints(random: Random) -> Iterator[str]:
    """Endpoints in any condition, in one slice or in two that may overlap."""
    yield _some_endpoints(random)
    if random.random() < 0.25:
        yield _some_endpoints(random)


def _some_endpoints(random: Random) -> str:
    addresses = random.sample(_LOCAL_ENDPOINTS + _REMOTE_ENDPOINTS, random.choice((0, 1, 1, 2, 3, 4)))
    return " ".join(_endpoint(random, address) for address in addresses)


def _slice_ports(random: Random, ports: Sequence[Port]) -> list[SlicePort]:
    """Now and then a port is missing or has another number."""
    named = [SlicePort(random.choice((port.port, 8080)), port.name, port.protocol) for port in ports]
    return [port for port in named if random.random() < 0.95]


def _endpoint(random: Random, address: str) -> str:
    if random.random() < 0.1:
        return address
    where = "L" if address in _LOCAL_ENDPOINTS else "R"
    return f"{address}@{where}{random.choice(('', '', '', '/T', '/U', '/TX'))}"


def _probes(random: Random, ports: Sequence[Port]) -> tuple[Probe, ...]:
    found = []
    for _ in range(_PROBES if ports else 0):
        port = random.choice(ports)
        node_port = port.node_port or _NODE_PORT_BASE
        virtual = (*_VIPS, *_LOAD_BALANCERS, *_EXTERNAL_IPS, "172.30.0.99", "172.31.0.9")
        places = [(address, port.port) for address in virtual] + [(PRIMARY, node_port), (SECONDARY, node_port)]
        destination, number = random.choice(places)
        source = random.choice(_SOURCES)
        found.append(probe(source, destination, NONE, port=number, protocol=port.protocol))
    return tuple(dict.fromkeys(found))
