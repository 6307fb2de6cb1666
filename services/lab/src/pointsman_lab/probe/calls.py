# SPDX-License-Identifier: Apache-2.0
"""The host's side of the prober: probes, traffic and sessions from any place of a running lab."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec

from pointsman_lab.errors import NotConvergedError
from pointsman_lab.net.topology import place_name
from pointsman_lab.probe.outcome import Answer, Probe, ProbeRequest, TrafficReport, TrafficRequest
from pointsman_lab.rpc import RpcClient

_POLL_SECONDS = 0.02


class RunningTraffic:
    """Traffic that runs."""

    def __init__(self, prober: RpcClient, number: int) -> None:
        """Made by `Cluster.traffic`."""
        self._prober = prober
        self._number = number
        self._last: TrafficReport | None = None

    @property
    def last(self) -> TrafficReport:
        """The report at the end, or the latest one asked for.

        Raises:
            RuntimeError: none was asked for yet.
        """
        if self._last is None:
            raise RuntimeError("no report yet: await report(), or leave the context")
        return self._last

    async def report(self) -> TrafficReport:
        """What was seen so far."""
        answer = await self._prober.call("traffic_report", number=self._number)
        self._last = msgspec.convert(answer, TrafficReport)
        return self._last

    async def stop(self) -> TrafficReport:
        """Ends the traffic after the requests in flight; further calls answer the same."""
        if self._last is None or self._last.running:
            answer = await self._prober.call("traffic_stop", number=self._number)
            self._last = msgspec.convert(answer, TrafficReport)
        return self._last

    async def wait_answer_of(self, pod: str, *, timeout_seconds: float = 10.0) -> float:
        """Waits until a pod has answered; gives the CLOCK_MONOTONIC instant of its first answer.

        Raises:
            NotConvergedError: not in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while pod not in (report := await self.report()).first_seen:
            if time.monotonic() > deadline:
                raise NotConvergedError(f"pod {pod} answered nothing within {timeout_seconds:g} s: {report.by_pod}")
            await asyncio.sleep(_POLL_SECONDS)
        return report.first_seen[pod]


class ProbeCalls:
    """What a Cluster offers by its prober."""

    def __init__(self, prober: RpcClient) -> None:
        """Takes the connection to the prober."""
        self._prober = prober

    async def probe(self, place: str, ip: str, port: int, protocol: str = "TCP", **options: Any) -> list[Probe]:
        """Sends probes from a place; the options are the other fields of ProbeRequest."""
        request = ProbeRequest(place=place_name(place), ip=ip, port=port, protocol=protocol, **options)
        return msgspec.convert(await self._prober.call("probe", **msgspec.to_builtins(request)), list[Probe])

    async def connect(self, place: str, ip: str, port: int, protocol: str = "TCP", **options: Any) -> Probe:
        """Sends one probe."""
        return (await self.probe(place, ip, port, protocol, count=1, **options))[0]

    @contextlib.asynccontextmanager
    async def traffic(
        self, place: str, ip: str, port: int, protocol: str = "TCP", **options: Any
    ) -> AsyncIterator[RunningTraffic]:
        """Continuous traffic as long as the body runs; the options are the other fields of TrafficRequest."""
        request = TrafficRequest(place=place_name(place), ip=ip, port=port, protocol=protocol, **options)
        number = await self._prober.call("traffic_start", **msgspec.to_builtins(request))
        traffic = RunningTraffic(self._prober, number)
        try:
            yield traffic
        finally:
            await traffic.stop()

    @contextlib.asynccontextmanager
    async def session(
        self, place: str, ip: str, port: int, *, source: str | None = None
    ) -> AsyncIterator[Callable[[], Awaitable[Answer]]]:
        """One TCP connection that stays; the body gets a function that asks over it."""
        number = await self._prober.call("session_open", place=place_name(place), ip=ip, port=port, source=source)

        async def ask() -> Answer:
            return msgspec.convert(await self._prober.call("session_ask", number=number), Answer)

        try:
            yield ask
        finally:
            await self._prober.call("session_close", number=number)
