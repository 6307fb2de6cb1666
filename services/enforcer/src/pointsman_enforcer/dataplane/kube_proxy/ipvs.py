# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's IPVS: virtual servers, the device kube-ipvs0 and ipsets: a `Leftover` that waits for connections.

IPVS translates every packet itself, so a connection lives only as long as its virtual server, and the address it
arrives at must be one of this host's. New connections are taken by our rules before IPVS is asked. So what carries
nobody goes at once, and the rest when its last connection has ended: `remove` is to be called again while
`is_waiting`. Rules (`iptables.py`) go before, as a set that a rule asks cannot be destroyed.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from pointsman_enforcer.dataplane.exec import CommandError
from pointsman_enforcer.dataplane.ipvs.genetlink.channel import IpvsChannel, IpvsError
from pointsman_enforcer.dataplane.ipvs.genetlink.model import VirtualServerId
from pointsman_enforcer.dataplane.ipvs.observe import parse_sets, places_of
from pointsman_enforcer.dataplane.kube_proxy import objects
from pointsman_enforcer.dataplane.kube_proxy.names import DEVICE, NODE_PORT_SETS
from pointsman_enforcer.dataplane.kube_proxy.virtual_servers import (
    Sets,
    bound_addresses,
    connections,
    is_own,
    read_sets,
)
from pointsman_enforcer.dataplane.leftovers import LeftoverError
from pointsman_model.names import format_address

_NET: Final = Path("/proc/thread-self/net")
_SOCKETS: Final = ("tcp", "tcp6", "udp", "udp6")
_SHOWN_MAX: Final = 5
Clients = dict[VirtualServerId, set[str]]
Result = TypeVar("Result")


@dataclass(slots=True)
class _Seen:
    """What is there and kube-proxy's; not frozen, as it is put together from several sources."""

    sets: Sets
    device: int | None = None
    addresses: dict[bytes, int] = field(default_factory=dict)
    """On the device, with prefix lengths."""
    servers: list[VirtualServerId] = field(default_factory=list)
    live: frozenset[VirtualServerId] = frozenset()
    """Those of them that carry connections."""
    held: frozenset[bytes] = frozenset()
    """Addresses of the device that somebody talks to or from."""

    @property
    def idle(self) -> list[VirtualServerId]:
        """Virtual servers that can go."""
        return [each for each in self.servers if each not in self.live]

    @property
    def free(self) -> dict[bytes, int]:
        """Addresses that can go."""
        return {address: bits for address, bits in self.addresses.items() if address not in self.held}

    @property
    def unneeded_sets(self) -> frozenset[str]:
        """Sets that can go: those of node ports say which virtual servers are kube-proxy's."""
        return frozenset(name for name in self.sets.names if not (self.live and name in NODE_PORT_SETS))


class KubeProxyIpvs:
    """Works in the network namespace of the thread that runs the event loop."""

    name = "kube-proxy's virtual servers, kube-ipvs0 and ipsets"

    def __init__(self) -> None:
        self.is_waiting = False
        """Whether something has to stay until connections have ended, as of the last `find` or `remove`."""
        self._first: Clients | None = None
        """Connections at the first look, of virtual servers that are ours now; later ones do not need the device."""

    async def find(self) -> str:
        """See `Leftover.find`."""
        return await asyncio.to_thread(self._guarded, _words)

    async def remove(self) -> int:
        """See `Leftover.remove`: what carries connections stays, and `is_waiting` says so."""
        return await asyncio.to_thread(self._guarded, _remove)

    def _guarded(self, work: Callable[[_Seen], Result]) -> Result:
        try:
            seen = self._look()
            self.is_waiting = bool(seen.live or seen.held)
            return work(seen)
        except (OSError, ValueError, IpvsError, CommandError) as error:
            raise LeftoverError(f"{self.name}: {error}") from error

    def _look(self) -> _Seen:
        saved = objects.saved_sets()
        seen = _Seen(sets=read_sets(saved), device=_device())
        if seen.device is None and not seen.sets.node_ports:
            return seen
        local = set()
        for address, bits, device in objects.addresses():
            if device == seen.device:
                seen.addresses[address] = bits
            else:
                local.add(address)
        # With session affinity a virtual server of ours is known by its place, and may have been kube-proxy's before.
        ours = set(places_of(parse_sets(saved)[1], tuple(local)))
        present = [each for each in _servers() if is_own(each, on_device=seen.addresses, local=local, sets=seen.sets)]
        seen.servers = [each for each in present if each not in ours]
        clients = connections((_NET / "ip_vs_conn").read_text()) if present else {}
        seen.live = frozenset(clients.keys() & seen.servers)
        adopted = {each: clients.get(each, set()) for each in present if each in ours}
        carried = {each.address for each in (*seen.live, *self._carried(adopted))}
        talking = {address for each in _SOCKETS for address in bound_addresses((_NET / each).read_text())}
        seen.held = frozenset((carried | talking) & seen.addresses.keys())
        return seen

    def _carried(self, adopted: Mapping[VirtualServerId, set[str]]) -> list[VirtualServerId]:
        """Virtual servers that were adopted and still carry connections from before."""
        before = adopted if self._first is None else self._first
        self._first = {server: before.get(server, set()) & clients for server, clients in adopted.items()}
        return [server for server, clients in self._first.items() if clients]


def _words(seen: _Seen) -> str:
    """Everything that is there, for people."""
    words = []
    if seen.servers:
        carrying = f", {len(seen.live)} of them with connections" if seen.live else ""
        words.append(f"{len(seen.servers)} virtual servers{carrying}")
    if seen.device is not None:
        held = sorted(map(format_address, seen.held))[:_SHOWN_MAX]
        using = f" ({len(seen.held)} in use: {', '.join(held)})" if held else ""
        words.append(f"{DEVICE} with {len(seen.addresses)} addresses{using}")
    if seen.sets.names:
        words.append(f"{len(seen.sets.names)} ipsets")
    return "; ".join(words)


def _remove(seen: _Seen) -> int:
    """Virtual servers before the addresses they are reached at."""
    if seen.idle:
        with IpvsChannel() as channel:
            objects.delete_servers(channel, seen.idle)
    count = len(seen.idle) + len(seen.unneeded_sets)
    if seen.device is not None and not seen.held:
        objects.delete_device(seen.device)
        count += 1 + len(seen.addresses)
    elif seen.device is not None:
        objects.delete_addresses(seen.device, seen.free)
        count += len(seen.free)
    objects.destroy_sets(seen.unneeded_sets)
    return count


def _servers() -> list[VirtualServerId]:
    try:
        with IpvsChannel() as channel:
            return [server.id for server in channel.services()]
    except IpvsError:
        return []  # no IPVS in this kernel: the device stands alone


def _device() -> int | None:
    try:
        return socket.if_nametoindex(DEVICE)
    except OSError:
        return None
