# SPDX-License-Identifier: Apache-2.0
"""Continuous traffic from one place: workers that keep asking, and a bounded account of what they saw."""

import asyncio
import contextlib
import random
import socket
import time
from collections import Counter

import msgspec

from pointsman_lab.probe.dial import ask, connect, failed, open_socket, probe_once
from pointsman_lab.probe.outcome import Outcome, Probe, TrafficReport, TrafficRequest

_FAILURES_KEPT = 50
_LATENCIES_KEPT = 10_000


class Traffic:
    """One running generator."""

    def __init__(self, request: TrafficRequest) -> None:
        """Takes what to do; `start` begins."""
        self._request = request
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self._attempts = 0
        self._by_pod: Counter[str] = Counter()
        self._first_seen: dict[str, float] = {}
        self._last_seen: dict[str, float] = {}
        self._failures: list[Probe] = []
        self._failed = 0
        # A uniform sample of all latencies (reservoir), so that memory stays bounded.
        self._latencies: list[float] = []
        self._answered = 0
        self._latency_max = 0.0
        self._random = random.Random(0)

    def start(self) -> None:
        """Starts the workers."""
        work = self._persistent_worker if self._request.persistent else self._worker
        self._tasks = [asyncio.create_task(work()) for _ in range(self._request.workers)]

    async def stop(self) -> TrafficReport:
        """Lets every worker finish the request it is in, then reports."""
        self._stopping.set()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return self.report()

    def report(self) -> TrafficReport:
        """What was seen so far."""
        ordered = sorted(self._latencies)
        return TrafficReport(
            attempts=self._attempts,
            answered=self._answered,
            by_pod=dict(self._by_pod),
            first_seen=dict(self._first_seen),
            last_seen=dict(self._last_seen),
            failures=list(self._failures),
            failed=self._failed,
            latency_seconds_p50=_percentile(ordered, 0.50),
            latency_seconds_p99=_percentile(ordered, 0.99),
            latency_seconds_max=self._latency_max,
            running=not self._stopping.is_set(),
        )

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), timeout=self._request.interval_seconds)

    async def _worker(self) -> None:
        request = self._request
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                probe = await probe_once(
                    place=request.place,
                    ip=request.ip,
                    port=request.port,
                    protocol=request.protocol,
                    timeout_seconds=request.timeout_seconds,
                    source=request.source,
                    text="traffic",
                )
            except OSError as error:
                probe = failed(error, started)
            self._count(probe)
            await self._pause()

    async def _persistent_worker(self) -> None:
        sock: socket.socket | None = None
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                async with asyncio.timeout(self._request.timeout_seconds):
                    sock = sock or await self._connected()
                    answer = await ask(sock, "traffic")
                ended = time.monotonic()
                probe = Probe(outcome=Outcome.ANSWER, at_seconds=ended, latency_seconds=ended - started, answer=answer)
            except (OSError, msgspec.DecodeError) as error:
                probe = failed(error, started)
                if sock is not None:
                    sock.close()
                sock = None
            self._count(probe)
            await self._pause()
        if sock is not None:
            sock.close()

    async def _connected(self) -> socket.socket:
        sock = open_socket(self._request.place, self._request.ip, self._request.protocol, self._request.source)
        try:
            await connect(sock, self._request.ip, self._request.port)
        except BaseException:
            sock.close()
            raise
        return sock

    def _count(self, probe: Probe) -> None:
        self._attempts += 1
        if probe.answer is None:
            self._failed += 1
            if len(self._failures) < _FAILURES_KEPT:
                self._failures.append(probe)
            return
        self._answered += 1
        self._by_pod[probe.answer.pod] += 1
        self._first_seen.setdefault(probe.answer.pod, probe.at_seconds)
        self._last_seen[probe.answer.pod] = probe.at_seconds
        self._latency_max = max(self._latency_max, probe.latency_seconds)
        if len(self._latencies) < _LATENCIES_KEPT:
            self._latencies.append(probe.latency_seconds)
        elif (slot := self._random.randrange(self._answered)) < _LATENCIES_KEPT:
            self._latencies[slot] = probe.latency_seconds


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0
