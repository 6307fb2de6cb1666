# SPDX-License-Identifier: Apache-2.0
"""Connections that live while the rules change: ones made without pause, and ones held open."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from typing import Self

from conformance.executors.observation import words_of
from conformance.executors.prober import ANSWER_SECONDS, Attempt, Prober, ask_again
from conformance.model import Outcome, Probe, Target

HELD_CONNECTIONS = 8
_BURST = 16
_BURSTS_AFTER = 2


class SteadyTraffic:
    """A thread that makes connections from before its block begins until after it has ended."""

    def __init__(self, attempt: Attempt, probe: Probe) -> None:
        self._attempt = attempt
        self._probe = probe
        self._kinds: Counter[Target | str] = Counter()
        self._is_ending = threading.Event()
        self._has_begun = threading.Event()
        self._thread = threading.Thread(target=self._run, name="steady-traffic")

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._has_begun.wait(timeout=2 * ANSWER_SECONDS):
            self._kinds["no connection was made in time"] += 1
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_ending.set()
        self._thread.join()

    def failures(self) -> list[tuple[str, str, str]]:
        """(probe, expected, observed) if any connection failed or went where it must not."""
        allowed = set(self._probe.expect.targets)
        wrong = {kind: count for kind, count in self._kinds.items() if kind not in allowed}
        if not wrong:
            return []
        words = ", ".join(f"{count} x {kind}" for kind, count in wrong.items())
        total = sum(self._kinds.values())
        return [(f"steady {self._probe}", str(self._probe.expect), f"{words} of {total} connections")]

    def _run(self) -> None:
        prober = Prober()
        remaining = _BURSTS_AFTER
        while remaining:
            if self._is_ending.is_set():
                remaining -= 1
            try:
                seen = prober.run([self._attempt] * _BURST)
            except OSError as error:
                self._kinds[f"no more probes: {error}"] += 1
                return
            self._kinds.update(words_of(self._probe, one) for one in seen)
            self._has_begun.set()


class HeldFlow:
    """Connections opened now that must still be answered, by the same endpoint, whenever they are checked."""

    def __init__(self, prober: Prober, attempt: Attempt, probe: Probe) -> None:
        if probe.expect.outcome is not Outcome.FORWARD:
            raise ValueError(f"a held connection needs endpoints: {probe}")
        self._probe = probe
        with contextlib.ExitStack() as stack:
            self._connections = [stack.enter_context(prober.open(attempt)) for _ in range(HELD_CONNECTIONS)]
            self._first = [ask_again(one, ANSWER_SECONDS) for one in self._connections]
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def check(self) -> list[tuple[str, str, str]]:
        """(probe, expected, observed) for each connection that is answered no more, or by somebody else."""
        found = []
        for one, first in zip(self._connections, self._first, strict=True):
            seen = ask_again(one, ANSWER_SECONDS)
            expected, now = words_of(self._probe, first), words_of(self._probe, seen)
            if now != expected or not isinstance(now, Target):
                found.append((f"held {self._probe}", str(expected), str(now)))
        return found
