# SPDX-License-Identifier: Apache-2.0
"""Which endpoints of a very large set one node uses: a deterministic window of a ring.

Endpoints lie on a ring in the order of their hashes; a node takes the `count` that follow its own place. So an
endpoint that comes or goes concerns only the nodes whose windows hold its place, about `count / endpoints` of them,
and each of those exchanges one endpoint; a node that comes or goes concerns no other node. The result depends on the
set, the node's name and the count alone. What the ring costs is made once for a set; a node then costs a search and
its window. It is meant for the set that traffic policy, hints and the terminating fallback leave: a node's zone is
then respected, and what is not empty stays so. Plans do not use it: no annotation is read.

With `mean = nodes * count / endpoints`, the number of nodes that use an endpoint has a standard deviation of about
`sqrt(mean + mean ** 2 / count)`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

from pointsman_planner.core.service_state import PortEndpoint

SUBSET_ANNOTATION: Final = "pointsman.io/endpoint-subset"
"""How many endpoints each node is to have of a Service, at least."""
_DIGITS: Final = 6
"""More than any set needs: a count above the size of the set leaves it whole."""


def parse_count(text: str) -> int:
    """The count that an annotation asks for.

    Raises:
        ValueError: it is no whole number from 1 to 999999; the message says what to write.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS and int(text)):
        shown = text[:64]
        message = f"{SUBSET_ANNOTATION}: {shown!r} is no whole number from 1 to 999999; no subset is made"
        raise ValueError(message)
    return int(text)


class EndpointRing:
    """The endpoints of one set, in the order of their hashes."""

    __slots__ = ("_endpoints", "_places")

    def __init__(self, endpoints: Iterable[PortEndpoint]) -> None:
        placed = sorted((_place(b"e" + e.port.to_bytes(2, "big") + e.address), e) for e in endpoints)
        self._places = [place for place, _ in placed]
        self._endpoints = [endpoint for _, endpoint in placed]

    def subset(self, node_name: str, count: int) -> tuple[PortEndpoint, ...]:
        """What a node uses, in order of address and port; all of it when there are no more than `count` (>= 1)."""
        size = len(self._endpoints)
        if size <= count:
            return _in_order(self._endpoints)
        start = bisect_left(self._places, _place(b"n" + node_name.encode()))
        return _in_order(self._endpoints[(start + step) % size] for step in range(count))


def _in_order(endpoints: Iterable[PortEndpoint]) -> tuple[PortEndpoint, ...]:
    return tuple(sorted(endpoints, key=lambda e: (e.address, e.port)))


def _place(name: bytes) -> int:
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "big")
