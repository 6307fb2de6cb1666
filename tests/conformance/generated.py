# SPDX-License-Identifier: Apache-2.0
"""Rows by the dozen: random clusters that change, random probes of them, judged by the oracle.

Here Services come, change and go, share addresses and contend for them; `systematic` has what stands still.

Equal seeds give equal rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

from conformance import oracle
from conformance.addresses import BLOCKED_CLIENT, CLIENT, EXTERNAL_IP, POD, PRIMARY, SECONDARY
from conformance.build import NONE, probe, sequence
from conformance.model import Event, NodeSettings, Probe, Row, Step
from conformance.objects import Port, SlicePort, apply, delete, service, slice_of

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
_PORT_NUMBERS = (80, 443, 53)
_NODE_PORT_BASE = 3001


def rows(count: int, *, seed: int) -> Iterator[Row]:
    """`count` rows and the twin of each."""
    random = Random(seed)
    for number in range(count):
        drafts = sequence(
            SECTION,
            f"{seed}.{number}",
            *_steps(random),
            settings=random.choice(_SETTINGS),
            title=f"generated, seed {seed}",
        )
        yield from map(oracle.judge, drafts)


def _steps(random: Random) -> Iterator[Step]:
    """One to three steps; each makes, replaces or removes some of the Services."""
    alive: dict[int, str] = {}
    ports: set[Port] = set()
    for _ in range(random.randint(1, 3)):
        events: list[Event] = []
        for number in range(_SERVICES):
            if random.random() > 0.6:
                continue
            if number in alive and random.random() < 0.2:
                events += delete(alive.pop(number))
                continue
            of_service = _ports(random, number)
            ports.update(of_service)
            alive[number] = _service(random, number, of_service)
            events += apply(alive[number], _slice(random, number, of_service))
        yield Step(events=tuple(events), probes=_probes(random, sorted(ports)))


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
    )


def _slice(random: Random, number: int, ports: Sequence[Port]) -> str:
    """Endpoints in any condition; now and then a port is missing or has another number."""
    addresses = random.sample(_LOCAL_ENDPOINTS + _REMOTE_ENDPOINTS, random.choice((0, 1, 1, 2, 3, 4)))
    named = [SlicePort(random.choice((port.port, 8080)), port.name, port.protocol) for port in ports]
    kept = [port for port in named if random.random() < 0.95]
    return slice_of(f"svc{number}", " ".join(_endpoint(random, address) for address in addresses), kept)


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
        virtual = (*_VIPS, *_LOAD_BALANCERS, *_EXTERNAL_IPS, "172.30.0.99")
        places = [(address, port.port) for address in virtual] + [(PRIMARY, node_port), (SECONDARY, node_port)]
        destination, number = random.choice(places)
        source = random.choice(_SOURCES)
        found.append(probe(source, destination, NONE, port=number, protocol=port.protocol))
    return tuple(dict.fromkeys(found))
