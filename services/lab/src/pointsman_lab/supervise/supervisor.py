# SPDX-License-Identifier: Apache-2.0
"""All processes of a lab by name."""

import asyncio
import signal
from collections.abc import Iterable
from pathlib import Path

from pointsman_lab.errors import LabUsageError
from pointsman_lab.supervise.process import ManagedProcess, ProcessInfo, ProcessSpec


class Supervisor:
    """Starts, watches and signals processes; knows nothing of what they are."""

    def __init__(self, logs: Path, *, start_timeout_seconds: float) -> None:
        """Takes where logs go and how long a process may take to become ready."""
        self._logs = logs
        self._timeout = start_timeout_seconds
        self._processes: dict[str, ManagedProcess] = {}

    async def start(self, spec: ProcessSpec) -> float:
        """Adds a process, starts it and waits until it is ready; answers with the seconds that took.

        Raises:
            LabStartError: it did not become ready.
        """
        process = ManagedProcess(spec, self._logs / f"{spec.name}.log")
        self._processes[spec.name] = process
        await process.start()
        return await process.wait_ready(self._timeout)

    async def start_all(self, specs: Iterable[ProcessSpec]) -> None:
        """Starts several at once.

        Raises:
            LabStartError: one did not become ready.
        """
        results = await asyncio.gather(*(self.start(spec) for spec in specs), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def get(self, name: str) -> ManagedProcess:
        """The process of that name.

        Raises:
            LabUsageError: there is none.
        """
        if name not in self._processes:
            raise LabUsageError(f"there is no process {name!r}; there are {', '.join(sorted(self._processes))}")
        return self._processes[name]

    def send(self, name: str, signal_name: str, *, restart: bool) -> None:
        """Sends a signal by name (`KILL`, `TERM`, `STOP`, `CONT`).

        Raises:
            LabUsageError: no such process or signal, or it does not run.
        """
        try:
            number = signal.Signals[f"SIG{signal_name.removeprefix('SIG')}"]
        except KeyError as error:
            raise LabUsageError(f"there is no signal {signal_name!r}") from error
        try:
            self.get(name).signal(number, restart=restart)
        except LookupError as error:
            raise LabUsageError(str(error)) from error

    async def resume(self, name: str) -> None:
        """Starts a process that ended, and waits until it is ready."""
        process = self.get(name)
        await process.start()
        await process.wait_ready(self._timeout)

    async def wait_ready(self, name: str) -> float:
        """Waits until a process says it is ready; answers with the seconds that took."""
        return await self.get(name).wait_ready(self._timeout)

    def describe(self) -> list[ProcessInfo]:
        """What is known of each process, by name."""
        return [self._processes[name].describe() for name in sorted(self._processes)]
