# SPDX-License-Identifier: Apache-2.0
"""Which port of the node the proxy listens at for what: promised once, kept as long as it is served.

Any port the kernel calls free will do, but for those that rules of an earlier process still lead to, which would bring
connections of one service to another, and those where a UDP client may still be expected for the same reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from pointsman_chassis.clock import Clock
from pointsman_enforcer.dataplane.userspace.target import Listener
from pointsman_model.names import Family, Protocol

QUARANTINE_SECONDS: Final = 180.0
"""Longer than the kernel remembers a UDP flow (net.netfilter.nf_conntrack_udp_timeout_stream: 120)."""
_ATTEMPTS: Final = 64


class Places:
    """Belongs to the event loop."""

    def __init__(self, bind: Callable[[Listener], Listener], release: Callable[[bytes], None], clock: Clock) -> None:
        self._bind, self._release, self._clock = bind, release, clock
        self._promised: dict[bytes, Listener] = {}
        self._users: dict[bytes, bytes] = {}
        self._avoided: set[tuple[bytes, int]] = set()
        self._resting: dict[tuple[bytes, int], float] = {}
        self.addresses: dict[Family, bytes] = {}

    def avoid(self, places: Iterable[tuple[bytes, int]]) -> None:
        """Never promise these addresses and ports."""
        self._avoided = set(places)

    def promise(self, identity: bytes, family: Family, protocol: Protocol) -> Listener:
        """See `redirect.Promise`."""
        address = self.addresses.get(family)
        if address is None:
            raise OSError(f"this node has no {family.name} address")
        found = self._promised.get(identity)
        if found is not None and found.address == address:
            return found
        refused = []
        try:
            for _ in range(_ATTEMPTS):
                listener = self._bind(Listener(address, protocol, 0))
                if self._is_fit(listener):
                    self._promised[identity] = listener
                    self._users[listener.pack()] = identity
                    return listener
                refused.append(listener)
        finally:
            for each in refused:
                self._release(each.pack())
        raise OSError("every free port that was tried is one where others are still expected")

    def close(self, listener: Listener) -> None:
        """Nothing is served there any more."""
        identity = self._users.pop(listener.pack(), None)
        if identity is not None and self._promised.get(identity) == listener:
            del self._promised[identity]
        if listener.protocol is Protocol.UDP:
            self._resting[listener.address, listener.port] = self._clock.monotonic() + QUARANTINE_SECONDS

    def _is_fit(self, listener: Listener) -> bool:
        place = (listener.address, listener.port)
        now = self._clock.monotonic()
        while self._resting and next(iter(self._resting.values())) <= now:
            del self._resting[next(iter(self._resting))]
        return place not in self._avoided and place not in self._resting
