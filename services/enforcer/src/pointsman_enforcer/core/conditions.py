# SPDX-License-Identifier: Apache-2.0
"""Trouble with services that is no failure to program them: what planners are told beside nacks. Pure.

Who finds trouble of some kind says all there is of it; the list is put together from all kinds. A failure to program a
service is a nack, never this: here the kernel has the service as planned.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final, NamedTuple

from pointsman_model.names import ServiceKey

LISTED_MAX: Final = 500
"""As plan.v1 says, so that the longest stay below 1 MiB together."""
MESSAGE_CHARACTERS_MAX: Final = 1000


class ConditionKind(IntEnum):
    """What is concerned (equals `pointsman.plan.v1.ServiceCondition.Kind`)."""

    HEALTH_CHECK_NODE_PORT = 1


class ServiceCondition(NamedTuple):
    """One service's trouble of one kind; `since_ns` is wall clock nanoseconds."""

    service: ServiceKey
    kind: ConditionKind
    message: str
    since_ns: int


class ServiceConditions:
    """All trouble there is. Not frozen: it is the process's memory of it."""

    def __init__(self) -> None:
        self._held: dict[ConditionKind, dict[ServiceKey, ServiceCondition]] = {kind: {} for kind in ConditionKind}

    def __len__(self) -> int:
        return sum(map(len, self._held.values()))

    def replace(self, kind: ConditionKind, messages: Mapping[ServiceKey, str], now_ns: int) -> bool:
        """All trouble of one kind; whether anything is different now. Trouble that goes on keeps its beginning."""
        before = self._held[kind]
        self._held[kind] = {
            service: ServiceCondition(
                service,
                kind,
                message[:MESSAGE_CHARACTERS_MAX],
                before[service].since_ns if service in before else now_ns,
            )
            for service, message in messages.items()
        }
        return self._held[kind] != before

    def listed(self) -> tuple[ServiceCondition, ...]:
        """The conditions by service and kind, the first LISTED_MAX of them."""
        return tuple(sorted(each for held in self._held.values() for each in held.values())[:LISTED_MAX])
