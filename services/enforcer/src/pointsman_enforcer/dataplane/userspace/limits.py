# SPDX-License-Identifier: Apache-2.0
"""How the proxy is configured, and what it counts."""

from __future__ import annotations

import contextlib
import resource
from dataclasses import dataclass, replace
from typing import Final

DIAL_SECONDS: Final = (0.25, 0.5, 1.0, 2.0)
"""How long an endpoint may take to answer, attempt by attempt: those of kube-proxy's userspace mode."""
PIPES_MAX: Final = 64
"""Pipes for connections with much to say; each costs two descriptors and up to 1 MiB of the kernel's memory."""
LISTENERS_MAX: Final = 1 << 15
"""Listeners that descriptors are asked for; where there are too few, a quarter of them is left for listeners."""
_DESCRIPTORS_RESERVED: Final = 256
"""Of those the process may have, for everything but connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyLimits:
    """Bounds and intervals.

    Attributes:
        dial_seconds: one attempt for each.
        udp_idle_seconds: a UDP flow ends when it was silent for so long. kube-proxy: 0.25.
        tcp_idle_seconds: a TCP connection is reset when it was silent for so long; 0: never, as in kube-proxy. Peers
            that are gone are found by keepalives in any case.
        half_closed_seconds: the same of a connection of which one side has ended; 0: never.
        connections_max: TCP connections at a time; each costs two descriptors.
        flows_max: UDP flows at a time; each costs a descriptor.
    """

    dial_seconds: tuple[float, ...] = DIAL_SECONDS
    udp_idle_seconds: float = 0.25
    tcp_idle_seconds: float = 0.0
    half_closed_seconds: float = 3600.0
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
    """Connections reset and flows not begun because there were too many, or no descriptors left for them."""
    dials_failed: int = 0
    """Attempts to reach an endpoint."""
    unreachable: int = 0
    """Connections given up because no attempt succeeded."""
    idle: int = 0
    """Connections reset because they were silent for too long."""
    datagrams_dropped: int = 0
    bytes_to_endpoints: int = 0
    bytes_to_clients: int = 0
    spliced: int = 0
    """Bytes of both, of TCP connections, that went through a pipe and not through this process."""

    @property
    def bytes(self) -> int:
        """Forwarded, both ways."""
        return self.bytes_to_endpoints + self.bytes_to_clients


def within_descriptors(limits: ProxyLimits) -> ProxyLimits:
    """These limits, lowered to what descriptors allow, once the process may have as many as it can get."""
    fixed = LISTENERS_MAX + 2 * PIPES_MAX + _DESCRIPTORS_RESERVED
    wanted = 2 * limits.connections_max + limits.flows_max + fixed
    allowed = _raised(wanted)
    if allowed >= wanted:
        return limits
    spare = max(allowed - 2 * PIPES_MAX - _DESCRIPTORS_RESERVED, _DESCRIPTORS_RESERVED)
    return replace(
        limits,
        connections_max=min(limits.connections_max, spare // 4),
        flows_max=min(limits.flows_max, spare // 4),
    )


def _raised(wanted: int) -> int:
    """How many descriptors the process may have, raised to `wanted` as far as it is allowed to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return max(soft, wanted)
    is_enough = hard == resource.RLIM_INFINITY or hard >= wanted
    for limit in [(wanted, hard)] if is_enough else [(wanted, wanted), (hard, hard)]:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
            return limit[0]
    return soft
