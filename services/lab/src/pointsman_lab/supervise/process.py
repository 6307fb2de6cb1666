# SPDX-License-Identifier: Apache-2.0
"""One supervised process: start, readiness, log file, restart after a crash, signals, what it costs."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from pointsman_lab.errors import LabStartError
from pointsman_lab.net.process import start_process, wait_process
from pointsman_lab.supervise.readiness import Check

_POLL_SECONDS = 0.02
_RESTART_SECONDS_MIN = 0.2
_RESTART_SECONDS_MAX = 5.0
_STABLE_SECONDS = 10.0
_RESTARTS_UNREADY_MAX = 3
_STOP_SECONDS = 10.0
_LOG_TAIL_BYTES = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """How to run a process. `place` is the network namespace it is born in; `ready` None counts as ready at once."""

    name: str
    place: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    ready: Check | None = None
    restarts: bool = True
    pass_fds: tuple[int, ...] = ()


class ProcessInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about a process now. `pid` is the one inside the lab; CPU in seconds since its start."""

    name: str
    place: str
    state: str
    pid: int | None
    restarts: int
    resident_bytes: int = 0
    cpu_seconds: float = 0.0
    log: str = ""


class ManagedProcess:
    """Keeps one process running until told otherwise."""

    def __init__(self, spec: ProcessSpec, log_path: Path) -> None:
        """Takes what to run and where its output goes; `start` runs it."""
        self.spec = spec
        self.log_path = log_path
        self._process: subprocess.Popen[bytes] | None = None
        self._monitor: asyncio.Task[None] | None = None
        self._wanted = False
        self._restarts_now = spec.restarts
        self._restarts = 0
        self._stopped = False
        self._is_ending = False

    @property
    def pid(self) -> int | None:
        """The process id inside the lab, while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    async def start(self) -> None:
        """Starts the process unless it runs; one that was just told to end is waited for.

        Raises:
            LabStartError: the program cannot be executed.
        """
        if self._is_ending and self._process is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wait_process(self._process), _STOP_SECONDS)
        if self.pid is not None:
            return
        self._wanted = True
        self._restarts_now = self.spec.restarts
        self._launch()
        if self._monitor is None or self._monitor.done():
            self._monitor = asyncio.create_task(self._watch(), name=f"process {self.spec.name}")

    async def wait_ready(self, timeout_seconds: float) -> float:
        """Waits until the readiness check says yes; answers with the seconds it took.

        Raises:
            LabStartError: it ended, or was not ready in time; the message quotes the end of its log.
        """
        started = time.monotonic()
        restarts = self._restarts
        while self.spec.ready is not None and not await self.spec.ready():
            if self._restarts - restarts >= _RESTARTS_UNREADY_MAX:
                raise LabStartError(f"{self.spec.name} keeps ending; its log ends with:\n{self.log_tail()}")
            if self.pid is None and not self._restarts_now:
                raise LabStartError(f"{self.spec.name} ended at start:\n{self.log_tail()}")
            if time.monotonic() - started > timeout_seconds:
                raise LabStartError(
                    f"{self.spec.name} is not ready after {timeout_seconds:g} s "
                    f"(restarted {self._restarts} times); its log ends with:\n{self.log_tail()}"
                )
            await asyncio.sleep(_POLL_SECONDS)
        return time.monotonic() - started

    def signal(self, number: int, *, restart: bool = True) -> None:
        """Sends a signal; with `restart` false the process stays away when it ends of it.

        Raises:
            LookupError: it does not run.
        """
        if self.pid is None:
            raise LookupError(f"{self.spec.name} does not run")
        self._restarts_now = restart and self.spec.restarts
        if number in (signal.SIGSTOP, signal.SIGCONT):
            self._stopped = number == signal.SIGSTOP
        self._is_ending = self._is_ending or number in (signal.SIGKILL, signal.SIGTERM)
        os.kill(self.pid, number)

    async def stop(self) -> None:
        """Ends the process for good, with SIGKILL if it must be."""
        self._wanted = False
        if self.pid is not None and self._process is not None:
            self.signal(signal.SIGTERM, restart=False)
            self.signal(signal.SIGCONT, restart=False)
            try:
                await asyncio.wait_for(wait_process(self._process), _STOP_SECONDS)
            except TimeoutError:
                self._process.kill()
                await wait_process(self._process)
        if self._monitor is not None:
            self._monitor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._monitor

    def describe(self) -> ProcessInfo:
        """What is known now."""
        pid = self.pid
        state = "stopped" if self._stopped and pid else "running" if pid else "ended"
        memory, cpu = _usage(pid) if pid else (0, 0.0)
        return ProcessInfo(
            name=self.spec.name,
            place=self.spec.place,
            state=state,
            pid=pid,
            restarts=self._restarts,
            resident_bytes=memory,
            cpu_seconds=cpu,
            log=str(self.log_path),
        )

    def log_tail(self) -> str:
        """The end of the log."""
        try:
            return self.log_path.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
        except FileNotFoundError:
            return "(no log)"

    def _launch(self) -> None:
        self._stopped = self._is_ending = False
        try:
            with self.log_path.open("ab") as log:
                self._process = start_process(
                    self.spec.place,
                    self.spec.argv,
                    env={**os.environ, **self.spec.env},
                    stdout=log,
                    stderr=log,
                    pass_fds=self.spec.pass_fds,
                )
        except OSError as error:
            raise LabStartError(f"{self.spec.name}: cannot run {self.spec.argv[0]}: {error}") from error

    def _may_restart(self) -> bool:
        return self._wanted and self._restarts_now

    async def _watch(self) -> None:
        delay = _RESTART_SECONDS_MIN
        while (process := self._process) is not None:
            started = time.monotonic()
            await wait_process(process)
            if self._process is not process:
                # It was started again by hand meanwhile.
                continue
            if not self._may_restart():
                return
            if time.monotonic() - started > _STABLE_SECONDS:
                delay = _RESTART_SECONDS_MIN
            await asyncio.sleep(delay)
            delay = min(delay * 2, _RESTART_SECONDS_MAX)
            if self._may_restart() and self.pid is None:
                self._restarts += 1
                self._launch()


def _usage(pid: int) -> tuple[int, float]:
    """Resident bytes and CPU seconds of a process, zero when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0.0
    ticks = int(fields[11]) + int(fields[12])
    return int(fields[21]) * os.sysconf("SC_PAGE_SIZE"), ticks / os.sysconf("SC_CLK_TCK")
