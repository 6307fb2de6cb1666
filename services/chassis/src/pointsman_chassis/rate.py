# SPDX-License-Identifier: Apache-2.0
"""How often each of many may do something: token buckets, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

KEYS_MAX: Final = 10_000
"""Buckets kept; the one that was used longest ago makes place. Who is forgotten begins with a full one."""


class RateLimiter:
    """A bucket for each key: `burst` at once, and `per_second` again after that."""

    def __init__(self, *, per_second: float, burst: float, keys_max: int = KEYS_MAX) -> None:
        self._per_second = per_second
        self._burst = burst
        self._keys_max = keys_max
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str, now: float) -> float:
        """Take one; 0.0 when it was there, else the seconds after which one will be. `now` is monotonic seconds."""
        level, filled_at = self._buckets.pop(key, (self._burst, now))
        level = min(self._burst, level + (now - filled_at) * self._per_second)
        wait = 0.0 if level >= 1 else (1 - level) / self._per_second
        self._buckets[key] = (level - 1 if wait == 0.0 else level, now)
        if len(self._buckets) > self._keys_max:
            self._buckets.popitem(last=False)
        return wait
