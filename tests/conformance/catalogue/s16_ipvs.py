# SPDX-License-Identifier: Apache-2.0
"""Section 16, which waits for a mode still to come, by name: the matrix passes over nothing in silence."""

from __future__ import annotations

from collections.abc import Iterator

from conformance.build import IPVS, listed
from conformance.model import Row

_IPVS_ROWS = ("163", "164", "165", "166", "167", "168", "169", "170", "171")


def rows() -> Iterator[Row]:
    """Rows that only IPVS has."""
    for number in _IPVS_ROWS:
        yield from listed(16, number, "IPVS specifics", modes=IPVS, later="ipvs mode")
