# SPDX-License-Identifier: Apache-2.0
"""Section 14: clean-up of the connection table."""

from __future__ import annotations

from collections.abc import Iterator

from conformance.build import checked
from conformance.checks import conntrack
from conformance.model import Row


def rows() -> Iterator[Row]:
    yield from checked(14, "148", "UDP flows to endpoints that do not serve are ended", conntrack.stale_ones_end)
    yield from checked(14, "149", "TCP, other ports, and flows to who serves are kept", conntrack.others_stay)
    yield from checked(14, "150", "without endpoints that serve every flow is ended", conntrack.none_serve_none_stay)
    yield from checked(14, "151", "as many deletions as there are stale flows", conntrack.unrelated_cost_nothing)
    yield from checked(14, "152", "what a partial dump showed is cleaned", conntrack.a_partial_dump_counts)
    yield from checked(14, "153", "a new external IP or node port is cleaned", conntrack.a_new_place_is_cleaned)
    yield from checked(14, "154", "a restart ends nothing alive", conntrack.a_restart_ends_nothing_alive)
