# SPDX-License-Identifier: Apache-2.0
"""Several kernel executors side by side: most of what they do is waiting for what must not come.

Each has namespaces, servers and an enforcer of its own, and a thread to itself, so nothing of one is seen by another.
"""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from conformance.executors.kernel import KernelExecutor
from conformance.executors.modes import NFTABLES, KernelMode
from conformance.model import Row, RowResult


class KernelPool:
    """A context manager. Needs root."""

    def __init__(self, mode: KernelMode = NFTABLES, workers: int | None = None) -> None:
        """As many side by side as the mode says, or `workers`."""
        self._executors = [KernelExecutor(mode) for _ in range(workers or mode.workers)]
        self._free: queue.SimpleQueue[KernelExecutor] = queue.SimpleQueue()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for executor in self._executors:
                self._free.put(stack.enter_context(executor))
            self._threads = ThreadPoolExecutor(len(self._executors), "conformance")
            stack.callback(self._threads.shutdown, cancel_futures=True)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @property
    def first(self) -> KernelExecutor:
        """One of them, for who wants to see more than results, while the others are idle."""
        return self._executors[0]

    def run(self, groups: Iterable[Sequence[Row]]) -> Iterator[list[RowResult]]:
        """The results of each group (see `kernel.groups`), in the order of groups."""
        return self._threads.map(self._run_group, groups)

    def _run_group(self, rows: Sequence[Row]) -> list[RowResult]:
        executor = self._free.get()
        try:
            return executor.run_group(rows)
        finally:
            self._free.put(executor)
