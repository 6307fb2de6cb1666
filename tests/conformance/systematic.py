# SPDX-License-Identifier: Apache-2.0
"""Rows by the ten thousand: full cross products of what decides a packet's way, and a covering mixture of all of it.

Each product crosses what interacts and keeps the rest still:

    policies    policies x shape x endpoint states x detectors x masqueradeAll, by source and frontend
    hints       hints x endpoint states x policies x the node's zone
    ranges      source ranges x endpoint states x policy x every source, with and without a detector
    node ports  nodePortAddresses x protocol x policy x endpoint states, by source and local address
    others      ports, protocols and addresses that are not the Service's
    covering    worlds in which every two values of any two of these are together somewhere, filled up at random

Equal seeds give equal rows. Expectations are the oracle's.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from random import Random

from conformance.model import Row
from conformance.worlds import (
    CELLS_MAX,
    DETECTORS,
    ENDPOINTS,
    HINTS,
    NODE_PORT_ADDRESSES,
    RANGES,
    SHAPES,
    SOURCES,
    TARGETS,
    Asked,
    Cell,
    Draft,
    World,
    rows_of,
)

POLICIES, TOPOLOGY, SOURCE_RANGES, NODE_PORTS, OTHERS, COVERING = range(20, 26)
_POLICY = ("Cluster", "Local")
_PROTOCOLS = ("TCP", "UDP", "SCTP")
_ZONES = ("zone-a", "zone-b", "")
_CELL_VALUES: Sequence[Sequence[str]] = (
    _POLICY,
    _POLICY,
    SHAPES,
    tuple(ENDPOINTS),
    HINTS,
    tuple(RANGES),
    _PROTOCOLS,
)
_WORLD_VALUES: Sequence[Sequence[object]] = (
    tuple(DETECTORS),
    (False, True),
    tuple(NODE_PORT_ADDRESSES),
    _ZONES,
)
_COVERING_WORLDS = 36
_COVERING_CELLS = 10
_COVERING_PROBES = 12
_CANDIDATES = 60
_KERNEL_ONE_IN = 12
_FRONTENDS = {"cluster IP", "external IP", "balancer", "node port"}
_WORDS = {POLICIES: "policy", TOPOLOGY: "hints", SOURCE_RANGES: "ranges", NODE_PORTS: "ports", OTHERS: "other"}
Pair = tuple[int, object, int, object]
"""Two factors by place, each with a value of it."""


def policies() -> Iterator[Row]:
    """Who reaches which endpoints, masqueraded or not."""
    products = itertools.product(_POLICY, _POLICY, ("all", "cluster"), ENDPOINTS)
    cells = [
        Cell(itp, etp, shape, endpoints, protocol=_PROTOCOLS[number % 3] if number % 4 == 3 else "TCP")
        for number, (itp, etp, shape, endpoints) in enumerate(products)
    ]
    sources = ("pod", "neighbour", "node, secondary", "client", "endpoint", "nodeless endpoint")
    targets = ("cluster IP", "external IP", "balancer", "node port")
    for detector, masquerade_all in itertools.product(DETECTORS, (False, True)):
        world = World(detector, masquerade_all)
        yield from _in_worlds(
            POLICIES, f"{detector}{'.all' if masquerade_all else ''}", world, cells, Asked(sources, targets)
        )


def topology() -> Iterator[Row]:
    """Which endpoints hints leave."""
    states = (
        "both",
        "two of each",
        "local not ready",
        "terminating",
        "mixture",
        "no node name",
        "duplicates",
        "other node of the zone",
    )
    cells = [
        Cell(itp, etp, "all", endpoints, hints)
        for hints, endpoints, itp, etp in itertools.product(HINTS, states, _POLICY, _POLICY)
    ]
    for zone in _ZONES:
        world = World(zone=zone)
        sources = ("pod", "node, secondary", "client")
        yield from _in_worlds(TOPOLOGY, zone or "none", world, cells, Asked(sources, ("cluster IP", "balancer")))


def source_ranges() -> Iterator[Row]:
    """Who may use a load balancer's address."""
    states = ("both", "none", "remote", "local terminating")
    cells = [
        Cell("Cluster", etp, shape, endpoints, ranges=ranges)
        for ranges, etp, shape, endpoints in itertools.product(RANGES, _POLICY, ("all", "balancer"), states)
    ]
    targets = ("balancer", "proxy balancer", "external IP", "node port", "cluster IP", "other port, balancer")
    for detector in ("ClusterCIDR", "none"):
        world = World(detector)
        yield from _in_worlds(SOURCE_RANGES, detector, world, cells, Asked(tuple(SOURCES), targets))


def node_ports() -> Iterator[Row]:
    """Where node ports answer."""
    states = ("both", "none", "remote", "no node name")
    cells = [
        Cell("Cluster", etp, shape, endpoints, protocol=protocol)
        for etp, shape, endpoints, protocol in itertools.product(_POLICY, ("all", "node port"), states, _PROTOCOLS)
    ]
    targets = [target for target in TARGETS if target.startswith("node port")]
    sources = ("pod", "node", "node, secondary", "client", "nodeless endpoint")
    for name in NODE_PORT_ADDRESSES:
        world = World(node_ports=name)
        yield from _in_worlds(NODE_PORTS, name.replace(" ", "-"), world, cells, Asked(sources, targets))


def others() -> Iterator[Row]:
    """What is near a Service and not of it."""
    cells = [
        Cell(itp, "Cluster", shape, endpoints, protocol=protocol)
        for itp, shape, endpoints, protocol in itertools.product(_POLICY, SHAPES, ("both", "none"), _PROTOCOLS)
    ]
    targets = (
        "other port",
        "other protocol",
        "other port, external",
        "other port, balancer",
        "proxy balancer",
        "unallocated",
    )
    for detector in ("ClusterCIDR", "none"):
        world = World(detector)
        sources = ("pod", "node, secondary", "client", "endpoint")
        yield from _in_worlds(OTHERS, detector, world, cells, Asked(sources, targets))


def covering(seed: int = 2026) -> Iterator[Row]:
    """Everything mixed: each two values of any two factors are somewhere together, in a world with all sources."""
    random = Random(seed)
    for number, (world, cells) in enumerate(covering_worlds(seed)):
        asked = Asked(tuple(SOURCES), TARGETS)
        yield from rows_of((COVERING, f"mix.{number}"), world, cells, asked, choose=partial(_some, random))


def covering_worlds(seed: int) -> Iterator[tuple[World, list[Cell]]]:
    """Worlds and their cells: each the one of several random ones that covers most of what is uncovered yet."""
    random = Random(seed)
    covered: set[Pair] = set()
    unknown = (...,) * len(_CELL_VALUES)
    for _ in range(_COVERING_WORLDS):
        worlds = [_random_world(random) for _ in range(_CANDIDATES)]
        world = max(worlds, key=lambda one: _gain((*unknown, *one), covered))
        cells: list[Cell] = []
        for _ in range(_COVERING_CELLS):
            candidates = [(*_random_cell(random), *world) for _ in range(_CANDIDATES)]
            best = max(candidates, key=lambda one: _gain(one, covered))
            covered |= set(pairs(best))
            cells.append(Cell(*best[: len(_CELL_VALUES)]))  # type: ignore[arg-type]  # the first half is a cell's
        yield world, cells


def pairs(values: Sequence[object]) -> Iterator[Pair]:
    """Every two values with their places."""
    for (first, one), (second, other) in itertools.combinations(enumerate(values), 2):
        yield first, one, second, other


def all_pairs() -> set[Pair]:
    """Every two values that a covering must have together."""
    factors = list(enumerate((*_CELL_VALUES, *_WORLD_VALUES)))
    return {
        (first, one, second, other)
        for (first, ones), (second, others_) in itertools.combinations(factors, 2)
        for one in ones
        for other in others_
    }


PRODUCTS: Mapping[int, Callable[[], Iterable[Row]]] = {
    POLICIES: policies,
    TOPOLOGY: topology,
    SOURCE_RANGES: source_ranges,
    NODE_PORTS: node_ports,
    OTHERS: others,
    COVERING: covering,
}
"""Sources of rows by section."""


def sample(rows: Iterable[Row], one_in: int) -> Iterator[Row]:
    """About one row in so many, the same ones each time."""
    return (row for row in rows if zlib.crc32(row.id.encode()) % one_in == 0)


def some_worlds(rows: Iterable[Row], one_in: int) -> Iterator[Row]:
    """All rows of about one world in so many, the same ones each time."""
    return (row for row in rows if zlib.crc32(row.number.rpartition(".")[0].encode()) % one_in == 0)


def for_kernel(rows: Iterable[Row], fewer: int = 1) -> Iterator[Row]:
    """What a kernel is asked without being asked for all: the mixture whole, of each product one row in so many.

    A kernel that is slow is asked so many times fewer of both.
    """
    for row in rows:
        one_in = fewer * (_KERNEL_ONE_IN if row.section != COVERING else 1)
        if row.section not in PRODUCTS or any(sample([row], one_in)):
            yield row


def _in_worlds(section: int, name: str, world: World, cells: Sequence[Cell], asked: Asked) -> Iterator[Row]:
    """As few worlds as there is room in."""
    for number, chunk in enumerate(_chunks(cells, CELLS_MAX)):
        prefix = f"{_WORDS[section]}.{name.replace(' ', '-')}.{number}"
        yield from rows_of((section, prefix), world, chunk, asked)


def _chunks(cells: Sequence[Cell], size: int) -> Iterator[Sequence[Cell]]:
    return (cells[start : start + size] for start in range(0, len(cells), size))


def _random_world(random: Random) -> World:
    return World(*(random.choice(values) for values in _WORLD_VALUES))  # type: ignore[arg-type]


def _random_cell(random: Random) -> Cell:
    return Cell(*(random.choice(values) for values in _CELL_VALUES))


def _some(random: Random, probes: list[Draft]) -> list[Draft]:
    """Some of all, and some of those that arrive at a frontend."""
    at_frontends = [draft for draft in probes if draft.target in _FRONTENDS]
    chosen = random.sample(probes, min(len(probes), _COVERING_PROBES // 2))
    chosen += random.sample(at_frontends, min(len(at_frontends), _COVERING_PROBES // 2))
    return list(dict.fromkeys(chosen))


def _gain(values: Sequence[object], covered: set[Pair]) -> int:
    return sum(pair not in covered for pair in pairs(values))
