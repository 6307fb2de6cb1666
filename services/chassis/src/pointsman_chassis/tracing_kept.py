# SPDX-License-Identifier: Apache-2.0
"""Which changes are worth a span though nobody sampled them: those that failed, and the slowest. Pure.

Head sampling decides before anything has happened, so with a low ratio what an operator looks for is never there. What
a failure or a slow node needs is known when it is over, so its spans are made then, with the times that were kept.
Both are bounded: a cluster where everything fails must not drown its collector.
"""

from typing import Final

from pointsman_chassis.rate import RateLimiter

_RISE: Final = 1.1
"""How much the bound rises when something was slower. The smaller, the slower it follows, and the steadier it is."""


class Slowest:
    """Knows the duration that all but a `share` of what was measured stay below, in constant memory.

    The bound rises by a tenth with every duration above it and sinks a little with every other, so that in the long run
    a `share` is above.
    """

    def __init__(self, *, share: float, floor_seconds: float) -> None:
        """Nothing below `floor_seconds` is slow, however fast the rest is."""
        self._fall = _RISE ** (-share / (1 - share))
        self._floor = floor_seconds
        self.bound_seconds = floor_seconds

    def is_slow(self, seconds: float) -> bool:
        """Whether this duration is one of the slowest; counts it."""
        if seconds > self.bound_seconds:
            self.bound_seconds *= _RISE
            return True
        self.bound_seconds = max(self.bound_seconds * self._fall, self._floor)
        return False


class KeptSpans:
    """Says of each piece of work that was not sampled whether its span is kept."""

    def __init__(
        self, *, floor_seconds: float, share: float = 0.01, per_second: float = 5.0, burst: float = 100
    ) -> None:
        self._slowest = Slowest(share=share, floor_seconds=floor_seconds)
        self._rate = RateLimiter(per_second=per_second, burst=burst, keys_max=2)

    def keeps(self, *, seconds: float, is_failed: bool, now: float) -> bool:
        """Whether work that took so long is kept; `now` is monotonic seconds."""
        is_slow = self._slowest.is_slow(seconds)
        if is_failed:
            return self._rate.take("failed", now) == 0
        return is_slow and self._rate.take("slow", now) == 0
