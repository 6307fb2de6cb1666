# SPDX-License-Identifier: Apache-2.0
"""Planners as other planners tell of them: candidates and redirects, checked. Pure.

An address that nobody could dial is left out rather than refused: the rest of the message is still of use.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Final, NamedTuple

from pointsman.plan.v1 import plan_service_pb2 as pb

CANDIDATES_MAX: Final = 16
"""More planners than this are not remembered of one message; the first ones are the best."""
ID_CHARACTERS_MAX: Final = 253
_HOST_CHARACTERS_MAX: Final = 253
_HOST_MARKS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-_")
_IPV6_MARKS: Final = frozenset("abcdef0123456789:.")
_DELAY_SECONDS_MAX: Final = 600.0
_GRACE_SECONDS_MAX: Final = 3600.0


class Candidate(NamedTuple):
    """A planner that may serve this node; the id is empty when only an address is known."""

    address: str
    """`host:port` or `[v6]:port`."""
    planner_id: str = ""


class RedirectReason(IntEnum):
    """Why a planner sends a node away (equals `pointsman.plan.v1.Redirect.Reason`)."""

    NOT_OWNER = 1
    DRAINING = 2
    OVERLOADED = 3


class Redirect(NamedTuple):
    """Go elsewhere."""

    candidates: tuple[Candidate, ...] = ()
    """Best first."""
    reason: RedirectReason = RedirectReason.NOT_OWNER
    grace_seconds: float = 0.0
    """The stream is served for this long from now."""
    delay_seconds: float = 0.0
    """Dial not before this has passed from now."""


def is_address(text: str) -> bool:
    """Whether a text is `host:port` or `[v6]:port`, of characters that can do no harm in a target or a log."""
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and len(port) <= len("65535") and 1 <= int(port) <= 65535):
        return False
    if host.startswith("[") and host.endswith("]"):
        return len(host) > 2 and set(host[1:-1].lower()) <= _IPV6_MARKS
    return 0 < len(host) <= _HOST_CHARACTERS_MAX and set(host.lower()) <= _HOST_MARKS


def checked(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Those that can be dialled, without repetitions, at most CANDIDATES_MAX."""
    found: dict[str, Candidate] = {}
    for each in candidates:
        if len(found) >= CANDIDATES_MAX:
            break
        is_name = len(each.planner_id) <= ID_CHARACTERS_MAX and each.planner_id.isprintable()
        if is_name and is_address(each.address):
            found.setdefault(each.address, each)
    return tuple(found.values())


def candidates_from_pb(messages: Iterable[pb.Candidate]) -> tuple[Candidate, ...]:
    """The candidates of a message, checked."""
    return checked(Candidate(each.address, each.planner_id) for each in messages)


def redirect_from_pb(message: pb.Redirect) -> Redirect:
    """A redirect, checked; a reason that is not known counts as NOT_OWNER, as the protocol says."""
    known = int(message.reason) in set(map(int, RedirectReason))
    return Redirect(
        candidates=candidates_from_pb(message.candidates),
        reason=RedirectReason(message.reason) if known else RedirectReason.NOT_OWNER,
        grace_seconds=_seconds(message.grace.seconds, message.grace.nanos, _GRACE_SECONDS_MAX),
        delay_seconds=_seconds(message.delay.seconds, message.delay.nanos, _DELAY_SECONDS_MAX),
    )


def _seconds(seconds: int, nanos: int, maximum: float) -> float:
    return min(max(seconds + nanos / 1e9, 0.0), maximum)
