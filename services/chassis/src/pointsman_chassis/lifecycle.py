# SPDX-License-Identifier: Apache-2.0
"""How a process starts and ends: event loop, signals, the last line of defence, exit status.

SIGTERM and SIGINT set the `Stop`; `main` sees it and winds down. A second signal cancels `main`, so an operator who
insists is obeyed.
"""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import structlog

from pointsman_chassis.errors import EXIT_FAILURE, ConfigError, UnsupportedError, exit_status

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """The wish that this process ends, with the reason; it can be set once and never taken back."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.reason = ""

    def set(self, reason: str) -> None:
        """Ask everything to wind down; the first reason given is kept."""
        self.reason = self.reason or reason
        self._event.set()

    @property
    def is_set(self) -> bool:
        """Whether the process is to end."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Return once the process is to end."""
        await self._event.wait()


def run(main: Callable[[Stop], Awaitable[int]], *, use_uvloop: bool = True) -> int:
    """Run `main` to its end and return the exit status, for `sys.exit(run(main))`.

    Status: what `main` returned; 2 for a ConfigError and 3 for an UnsupportedError, each with its message on stderr;
    1 for anything else, with a log line and the traceback; 128 + signal number after a second signal.
    """
    with asyncio.Runner(loop_factory=_loop_factory(use_uvloop=use_uvloop)) as runner:
        return runner.run(_guarded(main))


async def task_boundary(name: str, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` as the body of a task: an exception is logged with the task's name, then passed on.

    This is the one place that catches everything. Inside a TaskGroup the other tasks are then cancelled and the
    process ends, which beats half a process that looks alive.
    """
    try:
        await work
    except Exception as error:
        structlog.get_logger("lifecycle").error("task failed", task=name, error=describe(error), exc_info=True)
        raise


def describe(error: BaseException) -> str:
    """One line for people: class name and message; the members of a group one after the other."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(describe(member) for member in error.exceptions)
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


async def _guarded(main: Callable[[Stop], Awaitable[int]]) -> int:
    stop = Stop()
    received = _handle_signals(stop)
    try:
        return await main(stop)
    except asyncio.CancelledError:
        if received:
            return 128 + received[-1]
        raise
    except Exception as error:  # noqa: BLE001 - the boundary of the process: everything ends here with a status
        return _report(error)


def _handle_signals(stop: Stop) -> list[int]:
    """Install the handlers; the returned list grows with each signal received."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    received: list[int] = []

    def handle(number: int) -> None:
        received.append(number)
        if stop.is_set and task is not None:
            task.cancel()
        stop.set(signal.Signals(number).name)

    for number in _SIGNALS:
        loop.add_signal_handler(number, handle, number)
    return received


def _report(error: BaseException) -> int:
    """Say why the process ends and return its status."""
    cause = _operator_error(error)
    if cause is not None:
        sys.stderr.write(f"error: {cause}\n")
        return exit_status(cause)
    structlog.get_logger("lifecycle").critical("process failed", error=describe(error), exc_info=error)
    return EXIT_FAILURE


def _operator_error(error: BaseException) -> ConfigError | UnsupportedError | None:
    """The error that the operator must act on, also when it arrives wrapped in exception groups."""
    if isinstance(error, ConfigError | UnsupportedError):
        return error
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            found = _operator_error(member)
            if found is not None:
                return found
    return None


def _loop_factory(*, use_uvloop: bool) -> Callable[[], asyncio.AbstractEventLoop]:
    """The loop constructor of uvloop where it is installed, else of asyncio."""
    if use_uvloop:
        try:
            import uvloop  # noqa: PLC0415 - optional: no wheel on some platforms, and asyncio's own loop works too
        except ImportError:
            pass
        else:
            factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
            return factory
    return asyncio.new_event_loop
