# SPDX-License-Identifier: Apache-2.0
"""Executor `component`: rows about something else than where a packet goes, by the part of the product that does it.

Health check servers, the network programming latency, the clean-up of the connection table, manners towards other
people's rules. Such a row brings a check (`Row.check`), which drives the real part and says what it must see and what
it saw. A check that compares nothing has failed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Self

from conformance.executors.kernel import KernelExecutor
from conformance.executors.modes import NFTABLES, KernelMode
from conformance.model import ProbeFailure, Row, RowResult

NAME = "component"


class ComponentExecutor:
    """What checks may use; a context manager. Needs root."""

    def __init__(self, mode: KernelMode = NFTABLES) -> None:
        self._mode = mode
        self._kernel: KernelExecutor | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @property
    def kernel(self) -> KernelExecutor:
        """A node with a dataplane of this mode, made when first asked for."""
        if self._kernel is None:
            self._kernel = self._stack.enter_context(KernelExecutor(self._mode))
        return self._kernel

    def run_group(self, rows: Sequence[Row]) -> list[RowResult]:
        """Each row by its own check; what breaks on the way is a failure."""
        return [RowResult(row, NAME, tuple(self._failures(row))) for row in rows]

    def _failures(self, row: Row) -> list[ProbeFailure]:
        if row.check is None:
            raise ValueError(f"{row.id} has nothing to check")
        try:
            findings = list(row.check(self, row.family))
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs into the report beside its row
            return [ProbeFailure(1, "the check as a whole", "an answer", f"{type(error).__name__}: {error}")]
        if not findings:
            return [ProbeFailure(1, "the check as a whole", "something compared", "nothing")]
        return [
            ProbeFailure(1, one.what, one.expected, one.observed) for one in findings if one.expected != one.observed
        ]
