# SPDX-License-Identifier: Apache-2.0
"""What the API server answered, for a bounded time and in bounded memory, so that it can be away."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from pointsman_chassis.clock import Clock
from pointsman_chassis.errors import OverloadError, UnavailableError

V = TypeVar("V")


class Answers(Generic[V]):
    """Answers by question. The one that was used longest ago makes place."""

    def __init__(self, *, fresh_seconds: float, stale_seconds: float, size_max: int, clock: Clock) -> None:
        self._fresh_seconds = fresh_seconds
        self._stale_seconds = stale_seconds
        self._size_max = size_max
        self._clock = clock
        self._known: OrderedDict[str, tuple[V, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    async def get(self, question: str, ask: Callable[[], Awaitable[V | None]]) -> V | None:
        """The answer, if need be from `ask`. None is an answer too, but not kept: anybody can ask for nonsense.

        Raises:
            UnavailableError, OverloadError: `ask` did, and there is no answer that is not too old.
        """
        known = self._known.get(question)
        age = self._clock.monotonic() - known[1] if known is not None else 0.0
        if known is not None and age < self._fresh_seconds:
            self._known.move_to_end(question)
            return known[0]
        try:
            answer = await ask()
        except (UnavailableError, OverloadError):
            if known is None or age >= self._stale_seconds:
                raise
            return known[0]
        self._known.pop(question, None)
        if answer is not None:
            self._known[question] = (answer, self._clock.monotonic())
            if len(self._known) > self._size_max:
                self._known.popitem(last=False)
        return answer
