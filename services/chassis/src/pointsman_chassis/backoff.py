# SPDX-License-Identifier: Apache-2.0
"""How long to wait before the next attempt: exponential, capped, jittered lest a thousand nodes return at once."""

import random
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Backoff:
    """Delays for one thing that is retried.

    The n-th delay is drawn uniformly from [1 - jitter, 1] x min(initial * factor^n, maximum). `random_source` is an
    argument so that tests are exact.
    """

    initial_seconds: float = 0.1
    maximum_seconds: float = 10.0
    factor: float = 2.0
    jitter: float = 0.5
    random_source: random.Random = field(default_factory=random.Random)
    _ceiling: float = field(default=0.0, init=False)

    def next_seconds(self) -> float:
        """The delay before the next attempt; each call grows the one after it."""
        ceiling = self._ceiling or min(self.initial_seconds, self.maximum_seconds)
        self._ceiling = min(ceiling * self.factor, self.maximum_seconds)
        return ceiling * (1.0 - self.jitter * self.random_source.random())

    def reset(self) -> None:
        """Forget past failures; call it once an attempt has worked, not when it merely started."""
        self._ceiling = 0.0
