# SPDX-License-Identifier: Apache-2.0
"""One node under test and everything around it, in network namespaces of our own, for the whole table.

    outside ---- out0 [ node ] pod0 ---- pod 0 (client pods)
    remote  ---- far0 [      ] pod1 ---- pod 1 (an endpoint of this node)
                               ...

Addresses are not configured but *placed*: a namespace that an address is placed in takes it for local (a local route,
so no address list, no duplicate detection), and the node has a route to it. Whatever is placed nowhere is behind
`remote`, the node's default route. The original destination of every probe is placed in `remote` as a witness: a packet
that the node leaves alone arrives there and is answered, so "left alone" is something that can be seen, and fail.

Neighbours are permanent, so nothing is ever lost to address resolution. No packet leaves these namespaces.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Self

from conformance.model import CATALOGUE_NODE_ADDRESSES

from support.netns import NetNs, veth

POD_COUNT = 9
NODE, OUTSIDE, REMOTE = "node", "outside", "remote"
CLIENT_POD = "pod0"
_GATEWAY = {4: "169.254.0.1", 6: "fe80::1"}
_NODE_MAC = "02:00:00:00:00:01"


class Topology:
    """The namespaces; a context manager that removes them. `namespaces` is by name: node, outside, remote, pod0..."""

    def __init__(self) -> None:
        self.namespaces: dict[str, NetNs] = {}
        self.node_addresses: tuple[str, ...] = CATALOGUE_NODE_ADDRESSES
        self._places: dict[str, str] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for name in (NODE, OUTSIDE, REMOTE, *pods()):
                self.namespaces[name] = stack.enter_context(NetNs(name))
            for number, name in enumerate((OUTSIDE, REMOTE, *pods()), start=2):
                self._join(number, name)
            self._prepare_node()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def place(self, wanted: Mapping[str, str]) -> None:
        """Put each address into the namespace named; addresses that are not named stay where they are."""
        batches: dict[str, list[str]] = {}
        for address, name in wanted.items():
            old = self._places.get(address)
            if old == name:
                continue
            if old is not None:
                batches.setdefault(old, []).append(_local_route("del", address))
                if old not in (NODE, REMOTE):
                    batches.setdefault(NODE, []).append(_node_route("del", address, old))
            batches.setdefault(name, []).append(_local_route("add", address))
            if name not in (NODE, REMOTE):
                batches.setdefault(NODE, []).append(_node_route("add", address, name))
            self._places[address] = name
        for name, lines in batches.items():
            self._ip(name, lines)

    def place_of(self, address: str) -> str | None:
        """The namespace that an address is placed in."""
        return self._places.get(address)

    def free_pods(self, taken: Iterable[str]) -> Iterator[str]:
        """Pods for endpoints that are not in `taken`."""
        held = set(taken)
        return (name for name in pods()[1:] if name not in held)

    def flush_conntrack(self) -> None:
        """Forget every connection that the node tracks."""
        self.namespaces[NODE].run("conntrack", "-F")

    def _join(self, number: int, name: str) -> None:
        """One veth pair, permanent neighbours on both sides, and the way back for the neighbour."""
        device = _device(name)
        veth(self.namespaces[NODE], device, self.namespaces[name], "eth0")
        mac = f"02:00:00:00:01:{number:02x}"
        far = [f"link set eth0 address {mac}"]
        near = [f"link set {device} address {_NODE_MAC}"]
        for version, gateway in _GATEWAY.items():
            far.append(f"neigh add {gateway} lladdr {_NODE_MAC} dev eth0 nud permanent")
            far.append(f"route add default via {gateway} dev eth0 onlink")
            near.append(f"neigh add {_peer(name, version)} lladdr {mac} dev {device} nud permanent")
        self._ip(name, far)
        self._ip(NODE, near)
        _relax(self.namespaces[name])

    def _prepare_node(self) -> None:
        node = self.namespaces[NODE]
        _relax(node)
        node.forwarding()
        # An empty mask exempts every ICMP message from the limit of the whole host, too: a thousand refusals a second.
        for key, value in (
            ("net.ipv4.icmp_ratelimit", "0"),
            ("net.ipv4.icmp_ratemask", "0"),
            ("net.ipv6.icmp.ratelimit", "0"),
            ("net.ipv6.icmp.ratemask", ""),
        ):
            node.sysctl(key, value)
        node.address("out0", *(_host(address) for address in CATALOGUE_NODE_ADDRESSES))
        self._ip(NODE, [f"route add default {_via(REMOTE, version)}" for version in _GATEWAY])
        for address in (*CATALOGUE_NODE_ADDRESSES, "127.0.0.1", "::1"):
            self._places[address] = NODE

    def _ip(self, name: str, lines: list[str]) -> None:
        self.namespaces[name].run("ip", "-batch", "-", stdin="\n".join(lines) + "\n")


def pods() -> tuple[str, ...]:
    """Names of the pod namespaces; the first is for clients that are no endpoints."""
    return tuple(f"pod{number}" for number in range(POD_COUNT))


def _relax(namespace: NetNs) -> None:
    for key in ("net.ipv4.ip_nonlocal_bind", "net.ipv6.ip_nonlocal_bind"):
        namespace.sysctl(key, 1)
    for key in ("net.ipv4.conf.all.rp_filter", "net.ipv4.conf.default.rp_filter"):
        namespace.sysctl(key, 0)


def _device(name: str) -> str:
    return {OUTSIDE: "out0", REMOTE: "far0"}.get(name, name)


def _peer(name: str, version: int) -> str:
    number = {OUTSIDE: 2, REMOTE: 3}.get(name) or 4 + int(name.removeprefix("pod"))
    return f"169.254.0.{number}" if version == 4 else f"fe80::{number:x}"


def _via(name: str, version: int) -> str:
    return f"via {_peer(name, version)} dev {_device(name)} onlink"


def _version(address: str) -> int:
    return 6 if ":" in address else 4


def _local_route(verb: str, address: str) -> str:
    return f"route {verb} local {address} dev lo"


def _node_route(verb: str, address: str, name: str) -> str:
    version = _version(address)
    return f"route {verb} {_host(address)} {_via(name, version)}"


def _host(address: str) -> str:
    return f"{address}/{128 if ':' in address else 32}"
