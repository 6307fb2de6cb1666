# SPDX-License-Identifier: Apache-2.0
"""Worlds: one node, its settings and many Services side by side, and every packet worth sending to each of them.

A *cell* says what is special about one Service; a *world* what is special about the node. `rows_of` writes both as
Kubernetes objects, in both families, and has one row for each source and frontend, judged by the oracle. All rows of a
world share its cluster, so an executor programs it once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from conformance import oracle
from conformance.addresses import (
    BLOCKED_CLIENT,
    CLIENT,
    EXTERNAL_IP,
    FOREIGN,
    POD,
    PRIMARY,
    SECONDARY,
    SERVICE_CIDRS,
    twin_address,
    twin_row,
)
from conformance.build import NONE, probe
from conformance.model import (
    EVERY_MODE,
    NO_LOCALHOST,
    NODE,
    OTHER_NODE,
    Event,
    IpFamily,
    NodeSettings,
    Origin,
    Probe,
    Row,
    Step,
)
from conformance.objects import Port, SlicePort, apply, endpoint, node, service, service_cidr, slice_of

CELLS_MAX = 90
"""Services of one world: addresses and node ports are numbered with them."""
L1, L2, L3, NODELESS = (f"10.180.0.{number}" for number in range(1, 5))
R1, R2, R3 = (f"10.180.2.{number}" for number in range(1, 4))
NEIGHBOUR = "10.180.0.9"
"""A pod of this node's own block."""
NODE_BLOCK = ("10.180.0.0/24", "fd00:10::180:0:0/112")
UNALLOCATED = "172.30.0.250"
LOOPBACK = "127.0.0.1"

ENDPOINTS = {
    "none": "",
    "local": f"{L1}@L",
    "two local": f"{L1}@L {L2}@L",
    "remote": f"{R1}@R",
    "both": f"{L1}@L {R1}@R",
    "two of each": f"{L1}@L {L2}@L {R1}@R {R2}@R",
    "not ready": f"{L1}@L/U {R1}@R/U",
    "local not ready": f"{L1}@L/U {R1}@R",
    "remote not ready": f"{L1}@L {R1}@R/U",
    "terminating": f"{L1}@L/T {R1}@R/T",
    "local terminating": f"{L1}@L/T {R1}@R",
    "remote terminating": f"{L1}@L {R1}@R/T",
    "only remote terminating": f"{R1}@R/T",
    "gone": f"{L1}@L/TX {R1}@R/TX",
    "mixture": f"{L1}@L {L2}@L/T {L3}@L/TX {R1}@R/U {R2}@R/T {R3}@R",
    "independent fallback": f"{R1}@R {L1}@L/U {L2}@L/T {R2}@R/T",
    "serving only": f"{L1}@L/S {R1}@R/S",
    "ready though terminating": f"{L1}@L/RT {R1}@R",
    "no node name": f"{NODELESS} {R1}@R",
    "no node name, terminating": f"{NODELESS}/T {L1}@L/U",
    "no conditions": f"{L1}@L/default {R1}@R/default",
    "duplicates": f"{L1}@L/T {R1}@R | {L1}@L {R1}@R {R2}@R/T",
    "other node of the zone": f"{L1}@L {R1}@R {R2}@R {R3}@R",
}
"""By name, in the notation of `objects`; a bar stands between two slices."""

HINTS = ("none", "zone", "far zone", "node", "partial", "partly node", "foreign node", "several zones")
RANGES: dict[str, tuple[str, ...]] = {
    "none": (),
    "client": ("203.0.113.0/25",),
    "pods": ("10.0.0.0/8",),
    "node": ("192.168.0.0/24",),
    "client and node": (" 203.0.113.0/25", "192.168.0.0/24 "),
    "everything": ("203.0.113.0/25", "0.0.0.0/0"),
    "other family": (twin_address("203.0.113.0/25"),),
    "both families": ("203.0.113.0/25", twin_address("203.0.113.0/25")),
}
SHAPES = ("all", "cluster", "node port", "external", "balancer", "proxy")
DETECTORS = {
    "ClusterCIDR": NodeSettings(),
    "NodeCIDR": NodeSettings(detect_local_mode="NodeCIDR", cluster_cidrs=()),
    "InterfaceNamePrefix": NodeSettings(detect_local_mode="InterfaceNamePrefix", interface="pod", cluster_cidrs=()),
    "BridgeInterface": NodeSettings(detect_local_mode="BridgeInterface", interface="pod0", cluster_cidrs=()),
    "none": NodeSettings(detect_local_mode="", cluster_cidrs=()),
    "other family": NodeSettings(cluster_cidrs=(twin_address("10.0.0.0/8"),)),
}
NODE_PORT_ADDRESSES = {
    "all": ("0.0.0.0/0", "::/0"),
    "primary": ("primary",),
    "secondary": ("192.168.1.0/24", twin_address("192.168.1.0/24")),
    "both": ("192.168.0.0/24", "192.168.1.0/24", twin_address("192.168.0.0/24"), twin_address("192.168.1.0/24")),
    "other family": (twin_address("192.168.0.0/24"),),
    "with loopback": ("127.0.0.1/32", "192.168.0.0/24", "::1/128", twin_address("192.168.0.0/24")),
}
SOURCES = {
    "pod": POD,
    "neighbour": NEIGHBOUR,
    "node": PRIMARY,
    "node, secondary": SECONDARY,
    "client": CLIENT,
    "blocked": BLOCKED_CLIENT,
    "endpoint": L1,
    "nodeless endpoint": NODELESS,
}
TARGETS = (
    "cluster IP",
    "external IP",
    "balancer",
    "proxy balancer",
    "node port",
    "node port, secondary",
    "node port, third",
    "node port, foreign",
    "node port, loopback",
    "other port",
    "other protocol",
    "other port, external",
    "other port, balancer",
    "unallocated",
)


class Cell(NamedTuple):
    """One Service; the values are names in the tables above."""

    itp: str = "Cluster"
    etp: str = "Cluster"
    shape: str = "all"
    endpoints: str = "both"
    hints: str = "none"
    ranges: str = "none"
    protocol: str = "TCP"


class World(NamedTuple):
    """One node."""

    detector: str = "ClusterCIDR"
    masquerade_all: bool = False
    node_ports: str = "all"
    zone: str = "zone-a"

    @property
    def settings(self) -> NodeSettings:
        """As configuration of the enforcer."""
        return replace(
            DETECTORS[self.detector],
            masquerade_all=self.masquerade_all,
            node_port_addresses=NODE_PORT_ADDRESSES[self.node_ports],
        )


class Asked(NamedTuple):
    """Who sends what to each Service: names in `SOURCES` and `TARGETS`."""

    sources: Sequence[str]
    targets: Sequence[str]


class Draft(NamedTuple):
    """A probe without a verdict, and what its cell is about."""

    probe: Probe
    target: str
    about: str


def rows_of(
    place: tuple[int, str],
    world: World,
    cells: Sequence[Cell],
    asked: Asked,
    *,
    choose: Callable[[list[Draft]], list[Draft]] = list,
) -> Iterator[Row]:
    """A row for each cell, source and target that goes together, in both families, judged.

    `place` is the rows' section and the beginning of their numbers; `choose` picks from the probes of each cell.
    """
    if len(cells) > CELLS_MAX:
        raise ValueError(f"a world has at most {CELLS_MAX} cells, not {len(cells)}")
    drafts: list[Draft] = []
    for index, cell in enumerate(cells, start=1):
        drafts += choose(list(_probes(world, cell, index, asked)))
    titles = [f"{draft.about}; {_words(world)}" for draft in drafts]
    whole = Row(
        number=place[1],
        section=place[0],
        family=IpFamily.IPV4,
        steps=(Step(events=_events(world, cells), probes=tuple(draft.probe for draft in drafts)),),
        settings=world.settings,
    )
    for family in (whole, twin_row(whole)):
        yield from _split(oracle.judge(family), titles)


def _split(whole: Row, titles: Sequence[str]) -> Iterator[Row]:
    (step,) = whole.steps
    for index, (one, title) in enumerate(zip(step.probes, titles, strict=True)):
        yield replace(
            whole,
            number=f"{whole.number}.{index}",
            title=f"{one} => {one.expect} ({title})",
            steps=(replace(step, probes=(one,)),),
            modes=NO_LOCALHOST if one.destination == LOOPBACK else EVERY_MODE,
        )


def _words(world: World) -> str:
    text = f"detector {world.detector}, nodePortAddresses {world.node_ports}, zone {world.zone or 'unknown'}"
    return f"{text}, masqueradeAll" if world.masquerade_all else text


def _events(world: World, cells: Sequence[Cell]) -> tuple[Event, ...]:
    blocks = {"pod_cidrs": NODE_BLOCK} if world.detector == "NodeCIDR" else {}
    surroundings = [node(zone=world.zone or None, **blocks), service_cidr(*SERVICE_CIDRS)]
    for index, cell in enumerate(cells, start=1):
        surroundings.append(_service(cell, index))
        surroundings += _slices(cell, index)
    return apply(*surroundings)


def _service(cell: Cell, index: int) -> str:
    balancers: list[tuple[str, str]] = []
    if cell.shape in {"all", "balancer"}:
        balancers.append((_balancer(index), "VIP"))
    if cell.shape in {"all", "proxy"}:
        balancers.append((_proxy_balancer(index), "Proxy"))
    ports = [Port(80, "web", cell.protocol, _node_port(index) if cell.shape in {"all", "node port"} else 0)]
    return service(
        f"s{index}",
        _vip(index),
        ports,
        load_balancer=balancers,
        external_ips=[_external(index)] if cell.shape in {"all", "external"} else [],
        itp=cell.itp,
        etp=cell.etp,
        ranges=RANGES[cell.ranges],
    )


def _slices(cell: Cell, index: int) -> list[str]:
    """Half of the Services have another port behind them than in front."""
    port = SlicePort(80 if index % 2 else 8080, "web", cell.protocol)
    found = []
    for number, part in enumerate(ENDPOINTS[cell.endpoints].split("|")):
        texts = part.split()
        entries = [endpoint(text, **_hints(cell.hints, place, len(texts))) for place, text in enumerate(texts)]
        found.append(slice_of(f"s{index}", entries, [port], slice_name=f"s{index}-{number}"))
    return found


def _hints(kind: str, place: int, count: int) -> dict[str, Any]:
    """Hints of the endpoint at one place of a slice; node hints name the node under test first."""
    zones, nodes = [("zone-a", "zone-b")[place % 2]], [(NODE, OTHER_NODE)[place % 2]]
    return {
        "none": {},
        "zone": {"zones": zones},
        "far zone": {"zones": ["zone-c"]},
        "node": {"zones": zones, "nodes": nodes},
        "partial": {"zones": zones} if place < count - 1 else {},
        "partly node": {"zones": zones, "nodes": nodes} if place == 0 else {"zones": zones},
        "foreign node": {"zones": zones, "nodes": [OTHER_NODE]},
        "several zones": {"zones": ["zone-a", "zone-b"] if place % 2 == 0 else ["zone-b", "zone-c"]},
    }[kind]


def _probes(world: World, cell: Cell, index: int, asked: Asked) -> Iterator[Draft]:
    about = (
        f"iTP {cell.itp}, eTP {cell.etp}, {cell.shape}, endpoints {cell.endpoints}, hints {cell.hints}, "
        f"ranges {cell.ranges}"
    )
    for source in _usable(world, cell, asked.sources):
        address = SOURCES[source]
        origin = Origin.POD if "endpoint" in source else None
        for target in asked.targets:
            place = _place(cell, index, target)
            if place is None:
                continue
            destination, port, protocol = place
            if destination == LOOPBACK:
                if source == "node":
                    yield Draft(probe(LOOPBACK, LOOPBACK, NONE, port=port, protocol=protocol), target, about)
                continue
            one = probe(address, destination, NONE, port=port, protocol=protocol, origin=origin)
            yield Draft(one, target, about)


def _usable(world: World, cell: Cell, sources: Sequence[str]) -> Iterator[str]:
    """Who can send here: endpoints only if they are some, and a bridge is only that of the client pods."""
    for source in sources:
        if source == "neighbour" and world.detector != "NodeCIDR":
            continue
        if "endpoint" in source:
            is_listed = f"{SOURCES[source]}" in ENDPOINTS[cell.endpoints].replace("@", " ").replace("/", " ").split()
            if not is_listed or world.detector == "BridgeInterface":
                continue
        yield source


def _place(cell: Cell, index: int, target: str) -> tuple[str, int, str] | None:
    """Address, port and protocol of a target; None when the Service has no such."""
    protocol, node_port = cell.protocol, _node_port(index)
    has_external, has_balancer = cell.shape in {"all", "external"}, cell.shape in {"all", "balancer"}
    places = {
        "cluster IP": (_vip(index), 80, protocol),
        "external IP": (_external(index), 80, protocol) if has_external else None,
        "balancer": (_balancer(index), 80, protocol) if has_balancer else None,
        "proxy balancer": (_proxy_balancer(index), 80, protocol) if cell.shape in {"all", "proxy"} else None,
        "node port": (PRIMARY, node_port, protocol),
        "node port, secondary": (SECONDARY, node_port, protocol),
        "node port, third": (EXTERNAL_IP, node_port, protocol),
        "node port, foreign": (FOREIGN, node_port, protocol),
        "node port, loopback": (LOOPBACK, node_port, protocol),
        "other port": (_vip(index), 81, protocol),
        "other protocol": (_vip(index), 80, "UDP" if protocol != "UDP" else "TCP"),
        "other port, external": (_external(index), 81, protocol) if has_external else None,
        "other port, balancer": (_balancer(index), 81, protocol) if has_balancer else None,
        "unallocated": (UNALLOCATED, 80, protocol),
    }
    return places[target]


def _vip(index: int) -> str:
    return f"172.30.1.{index}"


def _external(index: int) -> str:
    return f"192.168.98.{index}"


def _balancer(index: int) -> str:
    return f"1.2.3.{index}"


def _proxy_balancer(index: int) -> str:
    return f"5.6.7.{index}"


def _node_port(index: int) -> int:
    return 3000 + index
