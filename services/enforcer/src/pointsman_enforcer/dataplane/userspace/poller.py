# SPDX-License-Identifier: Apache-2.0
"""The proxy's own thread: an epoll loop, timers, and the door through which other threads hand it work.

A thread of its own, so that packets do not wait for planning and rules, nor those for packets. The thread keeps the
network namespace of the one that starts it, and every socket is opened in it.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeVar

import structlog

Result = TypeVar("Result")
Handler = Callable[[int], None]
"""Is given the epoll events of its descriptor."""
_EVENTS_MAX: Final = 512
_BUFFER_BYTES: Final = 256 << 10
_ENDED: Final = "the proxy has ended"


class Timer:
    """Something to do at a time; `cancel` makes it nothing."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Do not do it."""
        self.callback = None


class Poller:
    """All but `submit`, `start` and `stop` belongs to the thread itself."""

    def __init__(self, name: str) -> None:
        self.buffer = memoryview(bytearray(_BUFFER_BYTES))
        """For what a handler reads and passes on before it returns: one at a time, so one is enough."""
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._forgotten: set[int] = set()
        """Closed while a list of events is worked off: what that list still says of them may be about others."""
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._work: deque[Callable[[], None]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._is_ending = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._epoll.register(self._wake, select.EPOLLIN)
        self._thread.start()

    def stop(self) -> None:
        """End, once what was handed in is done. May be repeated."""
        with self._lock:
            if self._is_ending:
                return
            self._is_ending = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._epoll.close()
        os.close(self._wake)

    def submit(self, function: Callable[[], Result]) -> Future[Result]:
        """Have the thread call this; from any other thread. RuntimeError when it has ended."""
        future: Future[Result] = Future()

        def work() -> None:
            try:
                future.set_result(function())
            except Exception as error:  # noqa: BLE001 - handed to who asked, whatever it is
                future.set_exception(error)

        with self._lock:
            if self._is_ending:
                raise RuntimeError(_ENDED)
            self._work.append(work)
            os.eventfd_write(self._wake, 1)
        return future

    def now(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()

    def watch(self, fd: int, events: int, handler: Handler) -> None:
        """Call `handler` whenever one of `events` holds (level-triggered), or an error; replaces an earlier call."""
        if fd in self._handlers:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def forget(self, fd: int) -> None:
        """No more. Before the descriptor is closed."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)
            self._forgotten.add(fd)

    def after(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call back once, in so many seconds."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (self.now() + seconds, next(self._numbers), timer))
        return timer

    def _run(self) -> None:
        while not self._is_ending or self._work:
            self._turn()

    def _turn(self) -> None:
        for fd, events in self._epoll.poll(self._patience(), _EVENTS_MAX):
            if fd == self._wake:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(fd)
            elif fd not in self._forgotten and (handler := self._handlers.get(fd)) is not None:
                self._guarded(lambda handler=handler, events=events: handler(events))  # type: ignore[misc]  # bound now
        self._forgotten.clear()
        while self._work:
            self._work.popleft()()
        self._forgotten.clear()
        while self._timers and self._timers[0][0] <= self.now():
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                self._guarded(timer.callback)
        self._forgotten.clear()

    def _patience(self) -> float | None:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        if self._work or self._is_ending:
            return 0.0
        return max(self._timers[0][0] - self.now(), 0.0) if self._timers else None

    def _guarded(self, callback: Callable[[], None]) -> None:
        """One connection's trouble is not that of all others."""
        try:
            callback()
        except Exception:  # noqa: BLE001 - whatever it is, the other connections go on
            structlog.get_logger("userspace").exception("a connection was given up")
