# SPDX-License-Identifier: Apache-2.0
"""Dumps of the connection table that end badly; the kernel is played by the other end of a socket."""

from __future__ import annotations

import errno
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from pointsman_enforcer.core.stale_flows import Flow, Query
from pointsman_enforcer.dataplane.conntrack import ctnetlink, table
from pointsman_enforcer.dataplane.conntrack.table import ATTEMPTS_MAX, ConntrackTable, InterruptedDumpError
from support.scripted_conntrack import EINTR, INTERRUPTED, WHOLE, Script, ScriptedKernel, done, entry, message

ALL_UDP = Query(4, 17)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[ScriptedKernel, ConntrackTable]]]:
    made: list[tuple[ScriptedKernel, ConntrackTable, threading.Thread]] = []

    def open_with(*scripts: Script) -> tuple[ScriptedKernel, ConntrackTable]:
        kernel = ScriptedKernel(*scripts)
        monkeypatch.setattr(table, "_open", kernel.open)
        found = ConntrackTable()
        thread = threading.Thread(target=kernel.serve)
        thread.start()
        made.append((kernel, found, thread))
        return kernel, found

    yield open_with
    for kernel, found, thread in made:
        thread.join()
        found.close()
        kernel.close()


def everything(_: Flow) -> bool:
    return True


@pytest.mark.parametrize("first", [INTERRUPTED, EINTR])
def test_a_partial_dump_ends_what_was_seen_and_is_begun_again(
    opened: Callable[..., tuple[ScriptedKernel, ConntrackTable]], first: Script
) -> None:  # row 152
    kernel, made = opened(first, WHOLE)
    seen = sum(len(part(0)) > 20 for part in first)
    assert made.end_flows(ALL_UDP, everything) == seen + 2
    assert made.dumps == 2
    assert kernel.deletions() == made.deletions == seen + 2


def test_a_dump_that_is_always_partial_says_so_after_some_attempts(
    opened: Callable[..., tuple[ScriptedKernel, ConntrackTable]],
) -> None:
    kernel, made = opened(*[INTERRUPTED] * ATTEMPTS_MAX)
    with pytest.raises(InterruptedDumpError, match="rearranged"):
        made.end_flows(ALL_UDP, everything)
    assert kernel.deletions() == 2 * ATTEMPTS_MAX


def test_the_kernels_refusal_is_raised(opened: Callable[..., tuple[ScriptedKernel, ConntrackTable]]) -> None:
    refusal: Script = [
        lambda sequence: message(ctnetlink.NLMSG_ERROR, sequence, struct.pack("=i", -errno.EINVAL) + bytes(16))
    ]
    _, made = opened(refusal)
    with pytest.raises(OSError, match="Invalid argument") as caught:
        made.end_flows(ALL_UDP, everything)
    assert caught.value.errno == errno.EINVAL


def test_answers_to_an_earlier_question_are_passed_over(
    opened: Callable[..., tuple[ScriptedKernel, ConntrackTable]],
) -> None:
    _, made = opened([lambda sequence: entry(sequence - 1, 9) + done(sequence - 1), *WHOLE])
    assert made.end_flows(ALL_UDP, everything) == 2


def test_lengths_that_contradict_the_datagram_are_refused(
    opened: Callable[..., tuple[ScriptedKernel, ConntrackTable]],
) -> None:
    _, made = opened([lambda sequence: struct.pack("=IHHII", 64, 256, 0, sequence, 0)])
    with pytest.raises(OSError, match="claims 64 of 16 bytes"):
        made.end_flows(ALL_UDP, everything)
