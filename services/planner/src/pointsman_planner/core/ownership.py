# SPDX-License-Identifier: Apache-2.0
"""Which planner a node belongs to: rendezvous hashing over the members, so that only the nodes that must move do.

Each pair of node and planner has a score that depends on nothing else; the planner with the highest is the owner, the
next the second candidate. A planner that joins takes only the nodes for which it has the highest score, 1/n of them
and from each other alike; one that leaves gives its own nodes to their second candidates and touches no others. A
planner that drains is a candidate only where there is no other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A planner that serves."""

    planner_id: str
    address: str
    """Where enforcers dial it, `host:port`."""
    instance_id: str = ""
    """Of the process; tells two apart that were given one id."""
    is_draining: bool = False


class Verdict(Enum):
    """What to do with an enforcer that dialled this planner."""

    SERVE = "serve"
    NOT_OWNER = "not-owner"
    """Send it to a better candidate."""
    DRAINING = "draining"
    """Send it to any other: this planner is going away."""


def candidates(node: str, members: Iterable[Member]) -> tuple[Member, ...]:
    """The planners of a node, best first; those that drain come after all others, in the same order."""
    return tuple(sorted(members, key=lambda member: (member.is_draining, -_score(node, member), member.planner_id)))


def judge(planner_id: str, ordered: Sequence[Member], unreachable: Collection[str]) -> Verdict:
    """Whether this planner serves a node whose candidates are these, when the enforcer cannot reach some of them.

    A planner that is no candidate (it has not joined yet) comes after all that are; one that knows no other serves.
    Planners that all drain keep what they have: there is no better place.
    """
    is_draining = any(each.planner_id == planner_id and each.is_draining for each in ordered)
    for member in ordered:
        if member.planner_id == planner_id or (is_draining and member.is_draining):
            return Verdict.SERVE
        if member.planner_id not in unreachable:
            return Verdict.DRAINING if is_draining else Verdict.NOT_OWNER
    return Verdict.SERVE


def _score(node: str, member: Member) -> int:
    pair = f"{node}\0{member.planner_id}".encode(errors="surrogatepass")
    return int.from_bytes(blake2b(pair, digest_size=8).digest(), "little")
