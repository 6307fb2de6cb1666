# SPDX-License-Identifier: Apache-2.0
"""Section 16: what only IPVS has. Its checks are about virtual and real servers, where packets cannot tell."""

from __future__ import annotations

from collections.abc import Iterator

from conformance.build import IPVS, checked
from conformance.checks import ipvs
from conformance.model import Row

_CHECKS = (
    ("163", "a real server without connections goes at once, with some it drains", ipvs.graceful_removal),
    ("164", "one that comes back while it drains has its weight again", ipvs.comes_back_while_it_drains),
    ("165", "so it has after a restart", ipvs.restart_while_it_drains),
    ("166", "a Service that goes takes nothing of others along", ipvs.removal_hurts_nobody_else),
    ("167", "addresses of the node stay, whatever Services come and go", ipvs.addresses_of_the_node_stay),
    ("168", "an address serves until its last port is gone", ipvs.ports_go_one_by_one),
    ("169", "affinity is persistence with the Service's timeout", ipvs.affinity_is_persistence),
    ("170", "other ports of a VIP are refused", ipvs.sockets_of_the_node_are_not_reached_through_a_vip),
    ("171", "local endpoints reach themselves, terminating ones too", ipvs.local_endpoints_reach_themselves),
)


def rows() -> Iterator[Row]:
    """Rows that only IPVS has."""
    for number, title, check in _CHECKS:
        yield from checked(16, number, title, check, modes=IPVS)
