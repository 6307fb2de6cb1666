# SPDX-License-Identifier: Apache-2.0
"""Connections opened all the time, and flows held for long, through a node whose rules change hands."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Self

from support.kube_proxy_rules.cluster import NODE_PORT, KubeCluster
from support.traffic import DROP, PATIENCE_SECONDS, REJECT, Reply, parse_reply, probe

if TYPE_CHECKING:
    from types import TracebackType

    from support.kube_proxy_rules.world import KubeProxyWorld
    from support.netns import NetNs

_BEAT_SECONDS = 0.05
_SETTLE_SECONDS = 60.0
_TURNS = 3
_SLOW_SECONDS = 0.9
"""A connection that took longer had its first packet repeated: it was lost once."""


@dataclass(slots=True)
class Tally:
    """What became of one kind of traffic."""

    name: str
    opened: int = 0
    slow: int = 0
    failed: list[str] = field(default_factory=list)


class KubeTraffic:
    """Openers and flows in threads; what they saw stands in `openers` and `flows` when the block is over."""

    def __init__(self, world: KubeProxyWorld, *, pause_seconds: float = 0.005) -> None:
        """`pause_seconds`: between two connections of an opener; they share few processors with what they test."""
        self._pause_seconds = pause_seconds
        self._patience_seconds = PATIENCE_SECONDS + 50 * pause_seconds
        self._beat_seconds = max(_BEAT_SECONDS, pause_seconds)
        self.openers: list[Tally] = []
        self.flows: list[Tally] = []
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        for cluster in world.clusters:
            self._of_family(world, cluster)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """No more connections, and the end of all flows."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def opened(self) -> int:
        return sum(each.opened for each in self.openers)

    @property
    def slow(self) -> int:
        return sum(each.slow for each in self.openers)

    @property
    def failed(self) -> list[str]:
        """Connections that did not become what they should."""
        return [f"{each.name}: {words}" for each in self.openers for words in each.failed]

    @property
    def reset(self) -> list[str]:
        """Flows that ended."""
        return [f"{each.name}: {words}" for each in self.flows for words in each.failed]

    def settle(self) -> None:
        """Wait until each opener and each flow has had some more turns, or has failed."""
        everybody = [*self.openers, *self.flows]
        before = [each.opened for each in everybody]
        deadline = time.monotonic() + _SETTLE_SECONDS
        while any(
            each.opened < count + _TURNS and not each.failed for each, count in zip(everybody, before, strict=True)
        ):
            assert time.monotonic() < deadline, [(each.name, each.opened) for each in everybody]
            time.sleep(_BEAT_SECONDS)

    def _of_family(self, world: KubeProxyWorld, cluster: KubeCluster) -> None:
        at = cluster.at
        web, dns, sticky, empty = (service.cluster_ip for service in cluster.services)
        ways: list[tuple[str, NetNs, str, int, bool]] = [
            ("client to load balancer", world.client, at.load_balancer, 80, False),
            ("client to node port", world.client, at.node, NODE_PORT, False),
            ("pod to cluster IP", world.pod, web, 80, False),
            ("pod to UDP cluster IP", world.pod, dns, 53, True),
            ("node to cluster IP", world.node, web, 80, False),
            ("pod to itself, maybe", world.pod1, web, 80, False),
            ("pod to affinity", world.pod, sticky, 80, False),
        ]
        word = cluster.family.keyword
        for name, namespace, address, port, is_udp in ways:
            self._add_opener(
                f"{word} {name}",
                partial(probe, namespace, address, port, udp=is_udp, patience_seconds=self._patience_seconds),
            )
            self._add_flow(f"{word} {name}", namespace, address, port, is_udp=is_udp)
        self._add_opener(
            f"{word} pod to no endpoints",
            lambda: probe(world.pod, empty, 80, patience_seconds=self._patience_seconds),
            REJECT,
        )
        self._add_opener(
            f"{word} not in source ranges",
            lambda: probe(world.client, at.load_balancer, 80, source=at.blocked, silent=True),
            DROP,
        )

    def _add_opener(self, name: str, call: Callable[[], Reply | str], expected: str = "") -> None:
        tally = Tally(name)
        self.openers.append(tally)

        def run() -> None:
            while not self._stop.is_set():
                started = time.monotonic()
                try:
                    outcome = call()
                except OSError as error:
                    outcome = str(error)
                tally.opened += 1
                tally.slow += not expected and time.monotonic() - started > _SLOW_SECONDS
                is_good = outcome == expected if expected else isinstance(outcome, Reply)
                if not is_good:
                    tally.failed.append(str(outcome))
                self._stop.wait(self._pause_seconds)

        self._threads.append(threading.Thread(target=run, name=name))

    def _add_flow(self, name: str, namespace: NetNs, address: str, port: int, *, is_udp: bool) -> None:
        tally = Tally(name)
        self.flows.append(tally)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        kind = socket.SOCK_DGRAM if is_udp else socket.SOCK_STREAM

        def run() -> None:
            with namespace.socket(family, kind) as client:
                client.settimeout(self._patience_seconds)
                first: Reply | None = None
                try:
                    client.connect((address, port))
                    while not self._stop.is_set():
                        client.sendall(b"who?")
                        reply = parse_reply(client.recv(128))
                        first = first or reply
                        if reply != first:
                            tally.failed.append(f"{reply} instead of {first}")
                            return
                        tally.opened += 1
                        self._stop.wait(self._beat_seconds)
                except (OSError, ValueError) as error:
                    tally.failed.append(f"{error!r} after {tally.opened}")

        self._threads.append(threading.Thread(target=run, name=f"flow {name}"))
