# SPDX-License-Identifier: Apache-2.0
"""What planners decide about remembered clients of session affinity: which endpoints are possible, and who was told.

Pure. A remembered client is a preference among endpoints that its ServicePort has anyway; nothing that anybody reports
or stores can send a client elsewhere.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping

from pointsman_model.names import ServicePortName
from pointsman_model.remembered import ClientKey
from pointsman_planner.core.assignment import policy_of
from pointsman_planner.core.service_state import PortEndpoint, ServiceState, is_usable

Place = tuple[ServicePortName, int]
"""A ServicePort and the length of its addresses."""
Usable = Mapping[Place, frozenset[tuple[bytes, int]]]


def place_of(key: ClientKey) -> Place:
    """Where a client comes."""
    return key.port, len(key.client)


def usable_endpoints(state: ServiceState) -> Usable:
    """Endpoints that new connections may get on some node, of the ServicePorts whose clients nodes share.

    Those are the ones with session affinity that are reached through any node. Which of these endpoints one node may
    use is in its plan, and its enforcer looks there.
    """
    if not state.service.affinity_timeout_seconds:
        return {}
    return {
        (ServicePortName(state.key, port.name, port.protocol), port.family.address_bytes): _usable(port.endpoints)
        for port in state.ports
        if policy_of(state, port).externally_accessible
    }


def _usable(endpoints: tuple[PortEndpoint, ...]) -> frozenset[tuple[bytes, int]]:
    chosen = [each for each in endpoints if not each.held_back]
    ready = [each for each in chosen if each.ready]
    return frozenset((each.address, each.port) for each in ready or chosen if is_usable(each))


class SeedLog:
    """Clients in the order in which something about them changed, so that each node is told from where it stands.

    A node's place is one number, whether it is new, slow or up to date. A client that changed again is told once.
    """

    def __init__(self) -> None:
        self._numbers: dict[ClientKey, int] = {}
        self._order: list[tuple[int, ClientKey]] = []
        self._last = 0

    def __contains__(self, key: ClientKey) -> bool:
        return key in self._numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def end(self) -> int:
        """The place of a node that was told everything."""
        return self._last

    def put(self, key: ClientKey) -> None:
        """Everybody must be told of this client, again if need be."""
        self._last += 1
        self._numbers[key] = self._last
        self._order.append((self._last, key))
        if len(self._order) > 2 * len(self._numbers) + 100:
            self._order = [each for each in self._order if self._numbers.get(each[1]) == each[0]]

    def drop(self, key: ClientKey) -> None:
        """Nobody must be told of this client any more."""
        self._numbers.pop(key, None)

    def after(self, place: int, most: int) -> tuple[list[ClientKey], int]:
        """Up to `most` clients that a node at this place was not told of, and its place afterwards."""
        found: list[ClientKey] = []
        for number, key in self._from(place):
            if self._numbers.get(key) == number:
                found.append(key)
                if len(found) == most:
                    return found, number
        return found, self._last

    def _from(self, place: int) -> Iterator[tuple[int, ClientKey]]:
        start = bisect_right(self._order, place, key=lambda each: each[0])
        for index in range(start, len(self._order)):
            yield self._order[index]
