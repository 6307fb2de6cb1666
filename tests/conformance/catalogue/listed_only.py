# SPDX-License-Identifier: Apache-2.0
"""Sections that wait for features still to come, by name, so that the matrix never passes over them in silence."""

from __future__ import annotations

from collections.abc import Iterator

from conformance.build import IPVS, listed
from conformance.model import Row

_LATER = {
    12: ("network-programming timestamps", ("137", "138", "139")),
    13: ("health servers", ("140", "141", "142", "143", "144", "146")),
    14: ("conntrack clean-up", ("148", "149", "150", "151", "152", "153", "154")),
    17: ("firewall and forwarding hygiene", ("174", "175")),
}
_IPVS_ROWS = ("163", "164", "165", "166", "167", "168", "169", "170", "171")


def rows() -> Iterator[Row]:
    """Rows of sections 12-14 and 17 (later) and 16 (IPVS only)."""
    for section, (subject, numbers) in _LATER.items():
        for number in numbers:
            yield from listed(section, number, subject, later=subject)
    for number in _IPVS_ROWS:
        yield from listed(16, number, "IPVS specifics", modes=IPVS, later="ipvs mode")
