# SPDX-License-Identifier: Apache-2.0
"""Which UDP and SCTP flows in the connection table are stale: decided from plans alone.

The kernel translates a flow's first packet and repeats itself for all later ones, so a flow that never ends keeps going
to an endpoint that is no more, or untranslated to where there was no rule when it began. A flow is stale when

- its destination is a place of ours (cluster IP, load balancer IP, external IP; or a node port at an address of this
  node that accepts node ports), and what answers is no serving endpoint of that place. So a flow that was never
  translated is stale, and so is every flow of a place without endpoints. Serving endpoints are those of all sets and
  those that only keep what they have (terminating, of other zones or nodes);
- its destination was a place of ours, and it is translated still.

Everything else is somebody else's, and stays.

TCP is left alone: its flows end by themselves. There is one exception, for all protocols: an *attempt*, a flow that
nothing has translated and nobody has answered. When rules of ours were missing for a while, it was let through to where
nobody is, and its repetitions follow it there however right the rules are by then. It is ended if its destination is
a place that the kernel knows by now, so that its next packet is judged anew.

`FlowIndex` remembers the serving endpoints of each place, and what changed since the last look (`Suspects`). It may be
read by another thread while its owner changes it: what readers see is replaced, never altered. Whoever reads a flow
from the kernel before asking `is_stale` gets an answer that knows every endpoint this flow can have been given,
provided `expect` is called before the kernel learns of a plan and `programmed` after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NamedTuple

from pointsman_model.names import Protocol, ServiceKey
from pointsman_model.plan import PlanEndpoint, ServicePlan

NARROW_QUERIES_MAX: Final = 8
"""Of one family and protocol. Each walks the whole table inside the kernel (0.23 ms per thousand entries); reading all
entries of a protocol instead takes about ten times as long as one such walk, however many places are asked about."""


class Place(NamedTuple):
    """Where packets arrive. Plain numbers, because these are looked up once for each flow."""

    family: int
    """4 or 6."""
    protocol: int
    address: bytes
    """Empty for a node port."""
    port: int


class Flow(NamedTuple):
    """One entry of the connection table."""

    family: int
    protocol: int
    address: bytes
    """Destination of its first packet."""
    port: int
    answering: bytes
    """Source of the replies, as `packed_endpoint`."""


class Query(NamedTuple):
    """Which entries to read: those of a place, those that an endpoint answers, or all of a protocol."""

    family: int
    protocol: int
    place: Place | None = None
    answering: bytes = b""
    """As `packed_endpoint`."""


ATTEMPTS: Final = Query(0, 0)
"""Entries of all families and protocols that nothing has translated and nobody has answered."""
Rules = Mapping[Place, bytes]
"""The serving endpoints of each place: packed, one after the other."""
NO_RULES: Final[Rules] = MappingProxyType({})


def packed_endpoint(address: bytes, port: int) -> bytes:
    """Address and port, as both stand in a packet."""
    return address + port.to_bytes(2, "big")


def is_attempt(flow: Flow, is_frontend: Callable[[Place], bool], accepts_node_port: Callable[[bytes], bool]) -> bool:
    """Whether an entry that nobody has answered was let through untranslated to a place that the kernel has.

    Args:
        flow: as read from the kernel just now.
        is_frontend: whether the kernel has rules for a place.
        accepts_node_port: whether packets to this address may be for a node port.
    """
    family, protocol, address, port, answering = flow
    if answering != packed_endpoint(address, port):
        return False
    if is_frontend(Place(family, protocol, address, port)):
        return True
    return is_frontend(Place(family, protocol, b"", port)) and accepts_node_port(address)


def flow_rules(plan: ServicePlan) -> Rules:
    """The places of a plan whose flows are watched."""
    rules: dict[Place, bytes] = {}
    for port in plan.ports:
        if port.protocol is Protocol.TCP:
            continue
        serving = _packed((*port.endpoint_sets, port.also_serving))
        for frontend in port.frontends:
            rules[Place(int(port.family), int(port.protocol), frontend.address, frontend.port)] = serving
    return rules or NO_RULES


def _packed(sets: Iterable[Iterable[PlanEndpoint]]) -> bytes:
    return b"".join(sorted({packed_endpoint(each.address, each.port) for members in sets for each in members}))


def _members(serving: bytes, family: int) -> set[bytes]:
    size = _endpoint_bytes(family)
    return {serving[start : start + size] for start in range(0, len(serving), size)}


def _endpoint_bytes(family: int) -> int:
    return 6 if family == 4 else 18


def _is_member(endpoint: bytes, serving: bytes) -> bool:
    start = serving.find(endpoint)
    while start % len(endpoint) and start >= 0:
        start = serving.find(endpoint, start + 1)
    return start >= 0


@dataclass(slots=True)
class Suspects:
    """Where stale flows may be. Not frozen: changes add up until somebody looks."""

    places: set[Place] = field(default_factory=set)
    endpoints: set[tuple[int, int, bytes]] = field(default_factory=set)
    """Family, protocol, packed endpoint: no longer serving, or not everywhere."""
    removed: set[Place] = field(default_factory=set)
    """Those of `places` that were given up."""

    def __bool__(self) -> bool:
        return bool(self.places or self.endpoints)

    def include(self, other: Suspects) -> None:
        """Suspect what `other` suspects, too."""
        self.places |= other.places
        self.endpoints |= other.endpoints
        self.removed |= other.removed

    def queries(self) -> list[Query]:
        """What to read, so that no suspect is missed and the table is not walked too often."""
        narrow: dict[tuple[int, int], list[Query]] = {}
        for place in self.places:
            narrow.setdefault(place[:2], []).append(Query(*place[:2], place=place))
        for family, protocol, endpoint in self.endpoints:
            narrow.setdefault((family, protocol), []).append(Query(family, protocol, answering=endpoint))
        found: list[Query] = []
        for kind, queries in sorted(narrow.items()):
            found += sorted(queries, key=repr) if len(queries) <= NARROW_QUERIES_MAX else [Query(*kind)]
        return found


class FlowIndex:
    """The places of all services programmed, and what is suspected since the last `take`."""

    def __init__(self) -> None:
        self._programmed: dict[ServiceKey, Rules] = {}
        self._expected: dict[ServiceKey, Rules] = {}
        self._claimants: dict[Place, tuple[ServiceKey, ...]] = {}
        self._suspects = Suspects()

    @property
    def has_suspects(self) -> bool:
        """Whether `take` would return anything."""
        return bool(self._suspects)

    def expect(self, key: ServiceKey, plan: ServicePlan) -> None:
        """The kernel is about to learn this plan: flows to its endpoints are good from now on."""
        rules, refused = flow_rules(plan), self._expected.get(key, NO_RULES)
        if not rules and key not in self._programmed and not refused:
            return
        self._expected[key] = rules
        for place in rules:
            claimants = self._claimants.get(place, ())
            if key not in claimants:
                self._claimants[place] = (*claimants, key)
        programmed = self._programmed.get(key, NO_RULES)
        for place in refused:
            if place not in rules and place not in programmed:
                self._release(place, key)

    def programmed(self, key: ServiceKey) -> None:
        """The kernel has the plan expected last: what it gave up is suspect."""
        new = self._expected.get(key)
        if new is None:
            return
        old = self._programmed.get(key, NO_RULES)
        self._suspect(old, new)
        if new:
            self._programmed[key] = new
        else:
            self._programmed.pop(key, None)
        del self._expected[key]
        for place in old:
            if place not in new:
                self._release(place, key)

    def suspect_all(self) -> None:
        """The kernel was without some of our rules, nobody knows for how long."""
        self._suspects.places |= self._claimants.keys()

    def take(self) -> Suspects:
        """What is suspected; from now on nothing is."""
        taken, self._suspects = self._suspects, Suspects()
        return taken

    def put_back(self, suspects: Suspects) -> None:
        """What was taken could not be looked into."""
        self._suspects.include(suspects)

    def is_stale(self, flow: Flow, removed: AbstractSet[Place], accepts_node_port: Callable[[bytes], bool]) -> bool:
        """Whether a flow should be ended; total, and the same for equal arguments and plans.

        Args:
            flow: as read from the kernel just now.
            removed: places that were ours.
            accepts_node_port: whether packets to this address may be for a node port.
        """
        family, protocol, address, port, answering = flow
        place = Place(family, protocol, address, port)
        if place not in self._claimants and place not in removed:
            place = Place(family, protocol, b"", port)
            if not ((place in self._claimants or place in removed) and accepts_node_port(address)):
                return False
        is_ours = False
        for serving in self._serving(place):
            if _is_member(answering, serving):
                return False
            is_ours = True
        return is_ours or (place in removed and answering != packed_endpoint(address, port))

    def _serving(self, place: Place) -> Iterator[bytes]:
        for key in self._claimants.get(place, ()):
            for rules in (self._expected.get(key), self._programmed.get(key)):
                serving = None if rules is None else rules.get(place)
                if serving is not None:
                    yield serving

    def _suspect(self, old: Rules, new: Rules) -> None:
        """Only what was lost can leave stale flows behind; more endpoints than before cannot."""
        shrunk: list[Place] = []
        lost: set[tuple[int, int, bytes]] = set()
        for place, serving in new.items():
            before = old.get(place)
            if before is None:
                self._suspects.places.add(place)
            elif before != serving:
                gone = _members(before, place.family) - _members(serving, place.family)
                lost.update((place.family, place.protocol, endpoint) for endpoint in gone)
                if gone:
                    shrunk.append(place)
        if len(lost) <= len(shrunk):
            self._suspects.endpoints |= lost
        else:
            self._suspects.places.update(shrunk)
        removed = [place for place in old if place not in new]
        self._suspects.places.update(removed)
        self._suspects.removed.update(removed)

    def _release(self, place: Place, key: ServiceKey) -> None:
        left = tuple(each for each in self._claimants.get(place, ()) if each != key)
        if left:
            self._claimants[place] = left
        else:
            self._claimants.pop(place, None)
