# SPDX-License-Identifier: Apache-2.0
"""The reconciler's small values: what is pending, what is under way, what was done. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from pointsman_enforcer.core.told_failures import Failure
from pointsman_enforcer.core.transaction import NO_POSITION, ChangeOrigin, Position
from pointsman_enforcer.dataplane.base import Applied, C
from pointsman_model.names import ServiceKey
from pointsman_model.plan import ServicePlan

ORIGINS_MAX: Final = 256
"""Changes that one sync remembers the origin of; more are programmed all the same, without a trace."""
Item = TypeVar("Item")


@dataclass(slots=True, kw_only=True)
class Pending:
    """Transactions taken over and not yet reported. Not frozen: later ones are merged in, acks being cumulative."""

    stream: object = None
    """Which stream the newest came by: the report goes there or nowhere."""
    nonce: int = 0
    position: Position = NO_POSITION
    digest: int = 0
    received_at: float = 0.0
    """Monotonic seconds, of the oldest."""
    received_ns: int = 0
    services: int = 0
    origins: list[ChangeOrigin] = field(default_factory=list)
    others: dict[object, tuple[int, Position]] = field(default_factory=dict)
    """Nonce and position for other streams: while a node moves from planner to planner it has two."""

    def take_over(self, stream: object) -> None:
        """From now on the newest transaction is of this stream."""
        if stream is not self.stream:
            self.others.pop(stream, None)
            self.others[self.stream] = (self.nonce, self.position)
            self.stream = stream

    def include(self, older: Pending) -> None:
        """What was owed before is owed still, save where this has newer."""
        for stream, answer in (*older.others.items(), (older.stream, (older.nonce, older.position))):
            if stream is not self.stream:
                self.others.setdefault(stream, answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(Generic[C]):
    """One service on its way into the kernel."""

    key: ServiceKey
    plan: bytes | None
    """As held; None when the service is to go."""
    decoded: ServicePlan
    """The same, decoded; an empty plan when the service is to go."""
    programmed_digest: int
    """Of what the kernel has."""
    rendering: bytes
    change: C


@dataclass(slots=True)
class Tally:
    """What one sync did. Not frozen: it is counted up."""

    messages: int = 0
    bytes: int = 0
    services: int = 0
    seconds: float = 0.0
    is_full: bool = False
    """Whether everything was compared with the kernel."""
    occupied: list[tuple[ServiceKey, int]] = field(default_factory=list)
    """Services whose address another one still has, with the digest of what the kernel has of them. The other one may
    give it up in this very sync."""
    failures: dict[ServiceKey, Failure] = field(default_factory=dict)
    """New ones."""
    recovered: dict[ServiceKey, None] = field(default_factory=dict)
    """Services that were failed and are as planned now."""
    timings: dict[ServiceKey, tuple[int, int, int]] = field(default_factory=dict)
    """For traced services: start of rendering, start and end of applying, wall clock nanoseconds."""

    @property
    def is_news(self) -> bool:
        """Whether there is anything to report that no transaction asked for."""
        return bool(self.services or self.recovered or self.failures or self.messages)

    def take_occupied(self) -> list[tuple[ServiceKey, int]]:
        """The occupied services, which are to be tried again."""
        taken, self.occupied = self.occupied, []
        return taken

    def count(self, applied: Applied) -> None:
        """Add one applied change."""
        self.messages += applied.messages
        self.bytes += applied.bytes


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """The items in order, at most `size` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
