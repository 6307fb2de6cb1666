# SPDX-License-Identifier: Apache-2.0
"""Counts work instead of timing it, so that the answer is the same on a slow, a fast and a busy machine.

Python's own loops show as bytecodes, loops inside C (a copy of a dict, a sorted list) as memory taken at the same time.
What a piece of work costs must be the same beside ten objects and beside ten thousand.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple


class Work(NamedTuple):
    """What one piece of work did."""

    bytecodes: int
    """Instructions of the interpreter that were executed, in all Python code that was called."""
    calls: Counter[str]
    """Python functions that were called, by name."""


def work_of(work: Callable[[], object]) -> Work:
    """Do it once, counted."""
    bytecodes = 0
    calls: Counter[str] = Counter()

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal bytecodes
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "call":
            calls[frame.f_code.co_name] += 1
        elif event == "opcode":
            bytecodes += 1
        return trace

    before = sys.gettrace()
    gc.disable()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
        gc.enable()
    return Work(bytecodes, calls)


def peak_bytes_of(work: Callable[[], object]) -> int:
    """Do it once; the most memory that it had taken at one time."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def kept_blocks_of(work: Callable[[], object], *, times: int) -> int:
    """Do it so many times; blocks of memory that are there now and were not before."""
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(times):
        work()
    gc.collect()
    return sys.getallocatedblocks() - before
