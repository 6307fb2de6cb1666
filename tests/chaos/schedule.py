# SPDX-License-Identifier: Apache-2.0
"""What is done to the cluster, and when: made of a seed alone, so that a seed is a schedule. Pure.

A run is rounds. In each, parts are harmed for a while, several at once, while objects change; at the end of a round
everything is whole again and has to agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from random import Random


class Harm(Enum):
    """What can be done to a part."""

    KILL = "is killed"
    END = "is asked to end"
    PAUSE = "is paused"
    PARTITION = "is cut off from everybody"
    CUT = "is cut off from"
    LOSSY = "loses 30% of the packets from and to"
    CLOCK = "has its clock set by"
    WATCHES_DROPPED = "drops all watches"
    WATCHES_FROZEN = "keeps watches open and silent"
    WATCHES_DELAYED = "is a second late with watch events"
    HISTORY_LOST = "forgets its history"
    WATCHES_REFUSED = "drops all watches, and refuses the next ones"
    EMPTIED = "is emptied"
    POISONED = "has garbage in all its keys"
    FULL = "takes no writes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One harm, from `at` for `seconds`, both within the round."""

    at: float
    seconds: float
    harm: Harm
    subject: str
    """A process or machine."""
    peer: str = ""
    """The other side of a cut; for a clock the seconds of its step."""

    def __str__(self) -> str:
        """For people."""
        return f"{self.subject} {self.harm.value}{f' {self.peer}' if self.peer else ''}, for {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The parts there are."""

    watchers: tuple[str, ...]
    planners: tuple[str, ...]
    nodes: tuple[str, ...]
    redis: str = "redis"
    api_server: str = "apiserver"
    control: str = "control"
    """The machine of the API server."""

    @property
    def enforcers(self) -> tuple[str, ...]:
        """Their processes."""
        return tuple(f"enforcer-{node}" for node in self.nodes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Faults by time, and for how long things go on."""

    seconds: float
    faults: tuple[Fault, ...]


SECONDS_MIN, SECONDS_MAX = 0.5, 6.0
_MOMENTARY = frozenset(
    {Harm.KILL, Harm.END, Harm.WATCHES_DROPPED, Harm.WATCHES_REFUSED, Harm.HISTORY_LOST, Harm.EMPTIED, Harm.POISONED}
)
_CLOCK_STEPS = ("-3600", "-7", "7", "3600")


def make_round(random: Random, places: Places, *, seconds: float, pause: float = 1.0) -> Round:
    """Faults that begin about every `pause` seconds; no subject suffers two at a time."""
    free_at: dict[str, float] = {}
    faults: list[Fault] = []
    at = 0.3
    while at < seconds - SECONDS_MIN:
        harm, subject, peer = _draw(random, places)
        lasts = random.uniform(SECONDS_MIN, min(SECONDS_MAX, seconds - at))
        if harm in _MOMENTARY:
            lasts = SECONDS_MIN
        if free_at.get(subject, 0.0) <= at:
            faults.append(Fault(at=at, seconds=lasts, harm=harm, subject=subject, peer=peer))
            free_at[subject] = at + lasts
        at += random.uniform(0.3, 1.7) * pause
    return Round(seconds=seconds, faults=tuple(faults))


def _draw(random: Random, places: Places) -> tuple[Harm, str, str]:
    services = (*places.watchers, *places.planners, *places.enforcers)
    machines = (*places.watchers, *places.planners, places.redis)
    cut = random.choice(machines)
    peer = random.choice(_peers(cut, places))
    watches = random.choice([harm for harm in Harm if harm.name.startswith(("WATCHES", "HISTORY"))])
    weighted = {
        (Harm.KILL, random.choice((*services, places.redis)), ""): 22,
        (Harm.END, random.choice((*services, places.redis)), ""): 8,
        (Harm.PAUSE, random.choice((*services, places.redis, places.api_server)), ""): 15,
        (Harm.PARTITION, random.choice(machines), ""): 12,
        (Harm.CUT, cut, peer): 13,
        (Harm.LOSSY, cut, peer): 7,
        (Harm.CLOCK, random.choice(services), random.choice(_CLOCK_STEPS)): 8,
        (watches, places.api_server, ""): 9,
        (random.choice([Harm.EMPTIED, Harm.POISONED, Harm.FULL]), places.redis, ""): 7,
    }
    [drawn] = random.choices(list(weighted), weights=list(weighted.values()))
    return drawn


def _peers(subject: str, places: Places) -> Sequence[str]:
    """Whom a machine talks to."""
    if subject in places.watchers:
        return (places.control, *places.planners)
    if subject in places.planners:
        return (*places.watchers, *places.nodes, places.redis)
    return places.planners
