# SPDX-License-Identifier: Apache-2.0
"""Which Events are written on Services, when, and when one is given up. Pure: time comes with each call.

An Event is for whoever looks at a Service with kubectl; node status, metrics and log say everything in any case. So
all here is bounded, and what does not fit is left out rather than waited for.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

from pointsman_model.names import ServiceKey
from pointsman_planner.core.messages import Condition

REPEAT_SECONDS: Final = 600.0
"""The same of the same Service and node is not written again within this."""
OF_SERVICE_MAX: Final = 20
"""Events of one Service within REPEAT_SECONDS: a port that is taken on a thousand nodes is one story."""
QUEUED_MAX: Final = 200
REMEMBERED_MAX: Final = 10_000
ATTEMPTS_MAX: Final = 4
PACE_SECONDS: Final = 0.2
"""Between two Events."""
RETRY_SECONDS: Final = 1.0
"""After the first attempt; doubled for each further one."""
NOTE_BYTES_MAX: Final = 1024
"""As the API server limits it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """What an Event of some kind is called, in kube-proxy's words."""

    reason: str
    action: str


CAUSES: Final[Mapping[int, Cause]] = MappingProxyType(
    {1: Cause(reason="FailedToStartServiceHealthcheck", action="Listen")}
)
"""By kind of condition (`pointsman.plan.v1.ServiceCondition.Kind`); others are not written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceEvent:
    """An Event to write. `name` is the same whichever planner hears of the same beginning; `at_ns` is wall clock."""

    service: ServiceKey
    node: str
    name: str
    cause: Cause
    note: str
    at_ns: int


class Fate(Enum):
    """What became of a beginning."""

    QUEUED = "queued"
    REPEATED = "repeated"
    """The same was written shortly before."""
    CROWDED = "crowded"
    """There are enough of this Service."""
    OVERFLOWED = "overflowed"
    """The queue is full."""
    UNKNOWN = "unknown"
    """No Event stands for this kind."""


class Answer(Enum):
    """What the API server said."""

    WRITTEN = "written"
    REFUSED = "refused"
    """Asking again is of no use."""
    AWAY = "away"


class ServiceEvents:
    """The queue, and the memory of what was written. Not frozen: it is the process's memory of it."""

    def __init__(self) -> None:
        self._queue: deque[tuple[str, ServiceEvent]] = deque()
        self._recent: OrderedDict[str, tuple[float, ServiceKey]] = OrderedDict()
        self._of_service: Counter[ServiceKey] = Counter()
        self._attempts = 0
        self._ready_at = -math.inf

    def __len__(self) -> int:
        return len(self._queue)

    def begun(self, node: str, condition: Condition, *, now: float, now_ns: int) -> Fate:
        """A condition begins on a node; `now` is monotonic seconds, `now_ns` wall clock nanoseconds."""
        cause = CAUSES.get(condition.kind)
        if cause is None:
            return Fate.UNKNOWN
        self._forget(now)
        service = condition.service
        what = _digest(service, node, condition.kind, condition.message)
        if what in self._recent:
            return Fate.REPEATED
        if self._of_service[service] >= OF_SERVICE_MAX:
            return Fate.CROWDED
        if len(self._queue) >= QUEUED_MAX:
            return Fate.OVERFLOWED
        self._recent[what] = (now, service)
        self._of_service[service] += 1
        event = ServiceEvent(
            service=service,
            node=node,
            name=f"{service.name}.{_digest(what, condition.since_ns)}",
            cause=cause,
            note=_cut(f"node {node}: {condition.message}"),
            at_ns=now_ns,
        )
        self._queue.append((what, event))
        return Fate.QUEUED

    def wait_seconds(self, now: float) -> float:
        """Until the head of the queue may be tried; infinite when there is none."""
        return max(self._ready_at - now, 0.0) if self._queue else math.inf

    @property
    def head(self) -> ServiceEvent:
        """What to try next. IndexError when there is nothing."""
        return self._queue[0][1]

    def answered(self, answer: Answer, *, now: float) -> bool:
        """The head was tried; whether that was the last of it. One that was not written may begin anew at any time."""
        self._attempts += 1
        if answer is Answer.AWAY and self._attempts < ATTEMPTS_MAX:
            self._ready_at = now + RETRY_SECONDS * 2 ** (self._attempts - 1)
            return False
        what, _ = self._queue.popleft()
        self._attempts = 0
        self._ready_at = now + PACE_SECONDS
        if answer is not Answer.WRITTEN and what in self._recent:
            self._drop(what)
        return True

    def _forget(self, now: float) -> None:
        while self._recent:
            what, (at, _) = next(iter(self._recent.items()))
            if now - at < REPEAT_SECONDS and len(self._recent) < REMEMBERED_MAX:
                return
            self._drop(what)

    def _drop(self, what: str) -> None:
        _, service = self._recent.pop(what)
        self._of_service[service] -= 1
        if not self._of_service[service]:
            del self._of_service[service]


def _digest(*parts: object) -> str:
    return hashlib.blake2b(repr(tuple(map(str, parts))).encode(), digest_size=8).hexdigest()


def _cut(text: str) -> str:
    return text.encode()[:NOTE_BYTES_MAX].decode(errors="ignore")
