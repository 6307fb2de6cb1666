# SPDX-License-Identifier: Apache-2.0
"""Whether something that is asked again and again works: several failures lose trust, and it takes time to regain it.

So a command that timed out does not flap every reader into degradation, and a server that answers now and then is
not taken for one that is back.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_FAILURES_MAX = 3
_SUCCESSES_MIN = 2
_STEADY_SECONDS = 0.5


@dataclass(slots=True, kw_only=True)
class Health:
    """Judged by outcomes; holds no clock, times are seconds on one that never goes back."""

    failures_max: int = _FAILURES_MAX
    """So many failures in a row and it does not work."""
    successes_min: int = _SUCCESSES_MIN
    """So many successes in a row are needed after that ..."""
    steady_seconds: float = _STEADY_SECONDS
    """... and this time without a failure."""
    is_good: bool | None = field(default=None, init=False)
    """None until the first outcome is known."""
    last_error: str = field(default="", init=False)
    _failures: int = field(default=0, init=False)
    _successes: int = field(default=0, init=False)
    _failed_at: float = field(default=0.0, init=False)

    def succeeded(self, now: float) -> bool:
        """Take in a success; returns whether the judgement changed."""
        self._failures = 0
        self._successes += 1
        if self.is_good:
            self.last_error = ""
            return False
        is_proved = self._successes >= self.successes_min and now - self._failed_at >= self.steady_seconds
        if self.is_good is None and self._failed_at == 0.0:
            is_proved = True
        if is_proved:
            self.is_good, self.last_error = True, ""
        return is_proved

    def failed(self, error: str, now: float) -> bool:
        """Take in a failure; returns whether the judgement changed."""
        self._successes = 0
        self._failures += 1
        self._failed_at, self.last_error = now, error
        if self.is_good is False or self._failures < self.failures_max:
            return False
        self.is_good = False
        return True
