# SPDX-License-Identifier: Apache-2.0
"""When could no connection succeed, whatever the proxy does? Windows of time, and what lies outside of them. Pure.

Two reasons count as unavoidable: the Service had no usable endpoint, by the API server's own events, and the table was
missing from the node's kernel because somebody else removed it, by the kernel's own notifications. Everything else is
the proxy's fault.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

MOVED: Final = -1
"""The outcome of a flow that was answered by another pod (see flows.py, which stands alone)."""
RESETS: Final = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED})


class Record(NamedTuple):
    """One question; instants are CLOCK_MONOTONIC, outcome 0 is an answer, else an errno or MOVED."""

    spec: int
    started: float
    ended: float
    outcome: int


class Window(NamedTuple):
    """From the first instant at which nothing could succeed to the first at which it could again."""

    start: float
    end: float


@dataclass(slots=True)
class EndpointTimeline:
    """A Service's usable endpoints over time, from the events of its slices.

    Usable is what kube-proxy uses: the ready ones or, when none is, those that are serving and terminating.
    """

    _slices: dict[str, frozenset[str]] = field(default_factory=dict)
    _empty_since: float | None = None
    windows: list[Window] = field(default_factory=list)

    def see(self, kind: str, slice_object: dict[str, Any], at: float) -> None:
        """Take in one event: its type, its object, and when it came."""
        name = slice_object["metadata"]["name"]
        self._slices[name] = frozenset() if kind == "DELETED" else _candidates(slice_object)
        is_usable = any(self._slices.values())
        if self._empty_since is None and not is_usable:
            self._empty_since = at
        elif self._empty_since is not None and is_usable:
            self.windows.append(Window(self._empty_since, at))
            self._empty_since = None

    def until(self, end: float) -> list[Window]:
        """The windows without any endpoint, the last one cut at `end` if it is still open."""
        opened = [] if self._empty_since is None else [Window(self._empty_since, end)]
        return [*self.windows, *opened]


def _candidates(slice_object: dict[str, Any]) -> frozenset[str]:
    found = set()
    for endpoint in slice_object.get("endpoints") or ():
        conditions = endpoint.get("conditions") or {}
        is_ready = conditions.get("ready", True)
        is_last_resort = conditions.get("serving", is_ready) and conditions.get("terminating", False)
        if is_ready or is_last_resort:
            found.update(endpoint["addresses"])
    return frozenset(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one scenario did to its connections.

    `late_seconds` is how long after the end of its window the last failure began, 0 without any.
    """

    opened: int
    failed: int
    outside: int
    resets: int
    unanswered: int
    worst_seconds: float
    late_seconds: float
    failures: dict[str, int]


def judge(records: Sequence[Record], windows: Sequence[Window], *, allowance_seconds: float) -> Outcome:
    """Count connections. A failure is unavoidable when any instant of it lies in a window.

    `allowance_seconds` lengthens each window at its end: a change needs time on its way into the kernel, and how long
    it may take is another figure of the benchmark, with a target of its own.
    """
    failures = [record for record in records if record.outcome]
    outside = [record for record in failures if not _is_within(record, windows, allowance_seconds)]
    late = [
        record.started - max(window.end for window in windows if window.end <= record.started)
        for record in failures
        if any(window.end <= record.started for window in windows)
    ]
    answered = [record.ended - record.started for record in records if not record.outcome]
    return Outcome(
        opened=len(records),
        failed=len(failures),
        outside=len(outside),
        resets=sum(record.outcome in RESETS for record in outside),
        unanswered=sum(record.outcome == errno.ETIMEDOUT for record in outside),
        worst_seconds=max(answered, default=0.0),
        late_seconds=max(late, default=0.0),
        failures=_by_name(failures),
    )


class Broken(NamedTuple):
    """Held TCP connections that ended and held UDP flows that moved to another pod; `outside` of every window."""

    total: int
    outside: int


def broken_flows(
    records: Iterable[Record], windows: Sequence[Window], *, datagram_specs: frozenset[int], allowance_seconds: float
) -> Broken:
    """Count what broke. A datagram that was lost, or a connection that had broken before, breaks nothing."""
    broken = [
        record
        for record in records
        if record.outcome == MOVED or (record.outcome > 0 and record.spec not in datagram_specs)
    ]
    outside = sum(not _is_within(record, windows, allowance_seconds) for record in broken)
    return Broken(len(broken), outside)


def _is_within(record: Record, windows: Iterable[Window], allowance_seconds: float) -> bool:
    return any(record.started <= window.end + allowance_seconds and record.ended >= window.start for window in windows)


def _by_name(records: Iterable[Record]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for record in records:
        name = errno.errorcode.get(record.outcome, str(record.outcome))
        counts[name] = counts.get(name, 0) + 1
    return counts
