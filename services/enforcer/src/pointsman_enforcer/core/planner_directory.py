# SPDX-License-Identifier: Apache-2.0
"""Where planners are, as far as this node knows. Pure; `dialing.py` decides which of them is dialled.

A search goes through the sources in the order of `Source`. The first two cost nothing; the lookups are made only when
everything before them has failed, so that a fleet leaves the API server and the name servers alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from enum import IntEnum
from hashlib import blake2b
from typing import Final, NamedTuple

from pointsman_enforcer.core.candidates import CANDIDATES_MAX, Candidate, checked

REMEMBERED_MAX: Final = 32


class Source(IntEnum):
    """Who says where a planner is, in the order in which they are believed."""

    TOLD = 1
    """Planners themselves: the candidates for this node, best first; kept on disk."""
    CONFIGURED = 2
    """The addresses of `plannerAddresses`, in an order of the node's own."""
    API_SERVER = 3
    """The slices of the planners' Service, read from the API server at a direct address."""
    NAMES = 4
    """All addresses behind the `dns:` entries of `plannerAddresses`."""
    REMEMBERED = 5
    """Whatever led to a planner before; kept on disk."""


LOOKUPS: Final = frozenset({Source.API_SERVER, Source.NAMES})
"""Sources that have to be asked."""


class PlannerMemory(NamedTuple):
    """What is kept through restarts."""

    told: tuple[Candidate, ...] = ()
    """Candidates, best first."""
    remembered: tuple[str, ...] = ()
    """Addresses, the most promising first."""


def dial_order(addresses: Iterable[str], node: str) -> tuple[str, ...]:
    """The addresses in the order in which a node tries them: its own, and the same after each restart."""
    return tuple(sorted(addresses, key=lambda each: blake2b(f"{node}\0{each}".encode(), digest_size=8).digest()))


class PlannerDirectory:
    """All that is known of planners, by source, and which of them could not be reached of late."""

    def __init__(
        self,
        *,
        node: str,
        configured: Sequence[str] = (),
        lookups: Collection[Source] = (),
        memory: PlannerMemory | None = None,
    ) -> None:
        """`lookups`: those of LOOKUPS that can be made here."""
        self._node = node
        self.lookups = frozenset(lookups)
        memory = PlannerMemory() if memory is None else memory
        self._remembered = list(dict.fromkeys(memory.remembered))[:REMEMBERED_MAX]
        self._known: dict[Source, tuple[Candidate, ...]] = {
            Source.TOLD: checked(memory.told),
            Source.CONFIGURED: _ordered(configured, node),
        }
        self._unreachable: dict[str, float] = {}

    @property
    def memory(self) -> PlannerMemory:
        """What is to be kept through restarts."""
        return PlannerMemory(self._known[Source.TOLD], tuple(self._remembered))

    @property
    def is_empty(self) -> bool:
        """Whether no source can ever name a planner."""
        return not (self.lookups or self._remembered or any(self._known.values()))

    def targets(self, source: Source, now: float) -> tuple[Candidate, ...]:
        """The planners that a source names, in the order in which they are to be tried.

        Of those that planners told, the ones that could not be reached a moment ago come last: the others are told
        of them, and serve.
        """
        if source is Source.REMEMBERED:
            return tuple(Candidate(address) for address in self._remembered)
        known = self._known.get(source, ())
        if source is not Source.TOLD:
            return known
        names = self.unreachable(now)
        return tuple(sorted(known, key=lambda each: each.planner_id in names))

    def learn(self, candidates: Sequence[Candidate]) -> None:
        """A planner has told of candidates. An empty list says that it knows no other, and changes nothing."""
        if candidates:
            self._known[Source.TOLD] = tuple(candidates)[:CANDIDATES_MAX]
            self._remember([each.address for each in candidates])

    def found(self, source: Source, addresses: Iterable[str]) -> None:
        """A lookup has been made. One that found nothing leaves what was found before."""
        candidates = _ordered(addresses, self._node)
        if candidates:
            self._known[source] = candidates
            self._remember([each.address for each in candidates])

    def served(self, target: Candidate) -> None:
        """A planner at this address has brought the plan."""
        self._unreachable.pop(target.planner_id, None)
        self._remember([target.address])

    def reached(self, planner_id: str) -> None:
        """A planner answered."""
        self._unreachable.pop(planner_id, None)

    def not_reached(self, planner_id: str, until: float) -> None:
        """A planner cannot be reached; others are told until then."""
        if planner_id and (planner_id in self._unreachable or len(self._unreachable) < CANDIDATES_MAX):
            self._unreachable[planner_id] = until

    def unreachable(self, now: float) -> tuple[str, ...]:
        """Ids of planners that could not be reached of late, for `hello`; sorted."""
        self._unreachable = {name: until for name, until in self._unreachable.items() if until > now}
        return tuple(sorted(self._unreachable))

    def _remember(self, addresses: Sequence[str]) -> None:
        self._remembered = list(dict.fromkeys([*addresses, *self._remembered]))[:REMEMBERED_MAX]


def _ordered(addresses: Iterable[str], node: str) -> tuple[Candidate, ...]:
    return tuple(Candidate(address) for address in dial_order(dict.fromkeys(addresses), node))
