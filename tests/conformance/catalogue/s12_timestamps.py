# SPDX-License-Identifier: Apache-2.0
"""Section 12: network-programming timestamps."""

from __future__ import annotations

from collections.abc import Iterator

from conformance.build import checked
from conformance.checks import timestamps
from conformance.model import Row


def rows() -> Iterator[Row]:
    yield from checked(12, "137", "each change before a sync counts, by service", timestamps.every_change_counts)
    yield from checked(12, "138", "no annotation, or one older than the process", timestamps.some_do_not_count)
    yield from checked(12, "139", "a slice that is gone takes its times along", timestamps.what_is_gone_does_not_count)
