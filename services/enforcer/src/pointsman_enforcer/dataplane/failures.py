# SPDX-License-Identifier: Apache-2.0
"""The services that are not as planned: why, what the kernel has instead, and when to try again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pointsman_enforcer.core.told_failures import Failure
from pointsman_enforcer.core.transaction import Stage
from pointsman_model.names import ServiceKey

NEVER: Final = float("inf")
_DIGEST_MASK: Final = (1 << 64) - 1
_DOUBLINGS_MAX: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """One service's failure; its last good state stays in the kernel."""

    stage: Stage
    message: str
    planned_digest: int
    programmed_digest: int
    attempts: int
    retry_at: float
    """Monotonic seconds; infinity when only a new plan can help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What just happened to a service, before it is known whether it is new."""

    stage: Stage
    message: str
    planned_digest: int
    programmed_digest: int


class FailureBook:
    """Failures by service. Bounded by the number of services in the plan."""

    def __init__(self, *, retry_seconds_initial: float, retry_seconds_max: float) -> None:
        self._initial = retry_seconds_initial
        self._max = retry_seconds_max
        self._failed: dict[ServiceKey, Failed] = {}
        self._present: tuple[Failure, ...] | None = None

    def __len__(self) -> int:
        return len(self._failed)

    def __contains__(self, key: ServiceKey) -> bool:
        return key in self._failed

    def get(self, key: ServiceKey) -> Failed | None:
        """The failure of a service, None when it is as planned."""
        return self._failed.get(key)

    def items(self) -> Iterator[tuple[ServiceKey, Failed]]:
        """All failures."""
        return iter(tuple(self._failed.items()))

    @property
    def present(self) -> tuple[Failure, ...]:
        """All failures as planners are told of them."""
        if self._present is None:
            self._present = tuple(
                Failure(key=key, stage=failed.stage, message=failed.message) for key, failed in self._failed.items()
            )
        return self._present

    def enter(self, key: ServiceKey, fault: Fault, now: float) -> bool:
        """Note a failure; whether it is news (another plan, or another stage than last time).

        Only what the kernel refused is tried again by itself: decoding and rendering give the same answer each time,
        and what the kernel lost is for drift repair to put back.
        """
        before = self._failed.get(key)
        is_repeated = (
            before is not None and before.planned_digest == fault.planned_digest and before.stage is fault.stage
        )
        attempts = before.attempts + 1 if before is not None and is_repeated else 1
        delay = min(self._initial * 2 ** min(attempts - 1, _DOUBLINGS_MAX), self._max)
        self._present = None
        self._failed[key] = Failed(
            stage=fault.stage,
            message=fault.message,
            planned_digest=fault.planned_digest,
            programmed_digest=fault.programmed_digest,
            attempts=attempts,
            retry_at=now + delay if fault.stage is Stage.APPLY else NEVER,
        )
        return not is_repeated

    def clear(self, key: ServiceKey) -> bool:
        """The service is as planned; whether it was not before."""
        self._present = None
        return self._failed.pop(key, None) is not None

    def due(self, now: float) -> list[ServiceKey]:
        """Services to try again now."""
        return [key for key, failed in self._failed.items() if failed.retry_at <= now]

    def next_retry(self) -> float:
        """Monotonic time of the next attempt; infinity when there is none."""
        return min((failed.retry_at for failed in self._failed.values()), default=NEVER)

    def programmed(self, key: ServiceKey, otherwise: int) -> int:
        """Digest of what the kernel has of a service: that of its last good plan if it failed, else `otherwise`."""
        failed = self._failed.get(key)
        return otherwise if failed is None else failed.programmed_digest

    def correct(self, digest: int) -> int:
        """The digest of a plan, with each failed service as it is in the kernel."""
        for failed in self._failed.values():
            digest += failed.programmed_digest - failed.planned_digest
        return digest & _DIGEST_MASK
