# SPDX-License-Identifier: Apache-2.0
"""The prober process: answers probe and traffic requests for every place of the lab.

One process serves all namespaces, because a socket belongs to the namespace it was made in, wherever its process is.
It is apart from the control process so that heavy traffic does not slow the cluster's own controllers.
"""

import asyncio
import itertools
import sys
from pathlib import Path
from typing import Any

import msgspec

from pointsman_lab.errors import LabUsageError
from pointsman_lab.probe.dial import ask, connect, open_socket, probe_once
from pointsman_lab.probe.outcome import Probe, ProbeRequest, TrafficReport, TrafficRequest
from pointsman_lab.probe.traffic import Traffic
from pointsman_lab.rpc import RpcServer

_PROBES_MAX = 100_000


class Prober:
    """The methods of the prober, as the RPC server offers them."""

    def __init__(self) -> None:
        """Starts without traffic or sessions."""
        self._ids = itertools.count(1)
        self._traffic: dict[int, Traffic] = {}
        self._sessions: dict[int, Any] = {}

    async def probe(self, **fields: Any) -> list[Probe]:
        """Sends the probes of a ProbeRequest; the results come in the order they were started."""
        request = msgspec.convert(fields, ProbeRequest)
        if not 1 <= request.count <= _PROBES_MAX:
            raise LabUsageError(f"count must be between 1 and {_PROBES_MAX}, not {request.count}")
        gate = asyncio.Semaphore(request.concurrency)

        async def one() -> Probe:
            async with gate:
                return await probe_once(
                    place=request.place,
                    ip=request.ip,
                    port=request.port,
                    protocol=request.protocol,
                    timeout_seconds=request.timeout_seconds,
                    source=request.source,
                    text=request.text,
                )

        return list(await asyncio.gather(*(one() for _ in range(request.count))))

    async def traffic_start(self, **fields: Any) -> int:
        """Starts a TrafficRequest and answers with its number."""
        traffic = Traffic(msgspec.convert(fields, TrafficRequest))
        number = next(self._ids)
        self._traffic[number] = traffic
        traffic.start()
        return number

    async def traffic_report(self, *, number: int) -> TrafficReport:
        """What this traffic has seen so far."""
        return self._traffic[number].report()

    async def traffic_stop(self, *, number: int) -> TrafficReport:
        """Ends this traffic and answers with its last report."""
        return await self._traffic.pop(number).stop()

    async def session_open(self, *, place: str, ip: str, port: int, source: str | None = None) -> int:
        """Opens a TCP connection that stays."""
        sock = open_socket(place, ip, "TCP", source)
        try:
            async with asyncio.timeout(5):
                await connect(sock, ip, port)
        except BaseException:
            sock.close()
            raise
        number = next(self._ids)
        self._sessions[number] = sock
        return number

    async def session_ask(self, *, number: int, timeout_seconds: float = 5.0) -> Any:
        """Asks over an open connection."""
        async with asyncio.timeout(timeout_seconds):
            return await ask(self._sessions[number], "session")

    async def session_close(self, *, number: int) -> None:
        """Closes a connection."""
        self._sessions.pop(number).close()


async def serve(path: Path) -> None:
    """Runs the prober until the process is ended."""
    prober = Prober()
    names = ("probe", "traffic_start", "traffic_report", "traffic_stop", "session_open", "session_ask", "session_close")
    server = RpcServer(path, {name: getattr(prober, name) for name in names})
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
