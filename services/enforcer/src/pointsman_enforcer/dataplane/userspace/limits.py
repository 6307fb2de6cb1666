# SPDX-License-Identifier: Apache-2.0
"""How the proxy is configured, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DIAL_SECONDS: Final = (0.25, 0.5, 1.0, 2.0)
"""How long an endpoint may take to answer, attempt by attempt: those of kube-proxy's userspace mode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyLimits:
    """Bounds and intervals.

    Attributes:
        dial_seconds: one attempt for each.
        udp_idle_seconds: a UDP flow ends when it was silent for so long. kube-proxy: 0.25.
        connections_max: TCP connections at a time; each costs two descriptors.
        flows_max: UDP flows at a time; each costs a descriptor.
    """

    dial_seconds: tuple[float, ...] = DIAL_SECONDS
    udp_idle_seconds: float = 0.25
    connections_max: int = 65_536
    flows_max: int = 16_384


@dataclass(slots=True)
class ProxyCounters:
    """Since the start, but for `connections` and `flows`: those are how many there are. Not frozen: counted up."""

    connections: int = 0
    flows: int = 0
    accepted: int = 0
    flows_begun: int = 0
    over_limit: int = 0
    """Connections reset and datagrams dropped because there were too many already."""
    dials_failed: int = 0
    """Attempts to reach an endpoint."""
    unreachable: int = 0
    """Connections given up because no attempt succeeded."""
    datagrams_dropped: int = 0
    bytes: int = 0
    """Forwarded, both ways."""
