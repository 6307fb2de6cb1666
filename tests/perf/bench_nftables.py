# SPDX-License-Identifier: Apache-2.0
"""Figures of the nf_tables layer: `python tests/perf/bench_nftables.py [services] [endpoints]` (root, own namespace).

Prints what a cold load costs per element, what one change costs beside that many services, and what reading back
costs. No figure is asserted: machines differ.
"""

import ipaddress
import resource
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from pointsman_enforcer.dataplane.nftables import layout
from pointsman_enforcer.dataplane.nftables.chains import EndpointChain
from pointsman_enforcer.dataplane.nftables.elements import add_elements, add_keys, add_ranges, delete_keys
from pointsman_enforcer.dataplane.nftables.message import Batch, Family, Message, Table
from pointsman_enforcer.dataplane.nftables.netlink import NftSocket
from pointsman_enforcer.dataplane.nftables.settings import SkeletonSettings
from pointsman_enforcer.dataplane.nftables.skeleton import replacement
from support.netns import NetNs

TABLE = Table(family=Family.IPV4)
SERVICES_PER_TRANSACTION = 100
REPETITIONS = 300
RANGE = ipaddress.ip_network("203.0.113.0/25")


def say(words: str) -> None:
    """One line of the report, at once."""
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


def address(number: int) -> bytes:
    """Some address."""
    return struct.pack(">I", 0x0A000000 + number)


def load_messages(keys: list[bytes], endpoints: int) -> list[Message]:
    """Services with their endpoints."""
    chain = EndpointChain(slots=endpoints).name.encode()
    slots = (
        (layout.slot_key(key, slot), layout.endpoint_value(address(slot), 8080))
        for key in keys
        for slot in range(endpoints)
    )
    return [
        *add_elements(TABLE, layout.ENDPOINTS, slots),
        *add_elements(TABLE, layout.SERVICE_IPS, [(key, chain) for key in keys]),
        *add_keys(TABLE, layout.CLUSTER_IPS, [key[:4] for key in keys]),
    ]


def commit(nft: NftSocket, *groups: list[Message]) -> None:
    """One transaction."""
    batch = Batch()
    for group in groups:
        batch.extend(group)
    nft.commit_blocking(batch)


def cold_load(nft: NftSocket, keys: list[bytes], endpoints: int, at_once: int) -> None:
    """Load everything, `at_once` services to a transaction."""
    chains = [EndpointChain(slots=endpoints + more).messages(TABLE) for more in (0, 1)]
    commit(nft, replacement(TABLE, SkeletonSettings()), *chains)
    encoding = committing = 0.0
    for start in range(0, len(keys), at_once):
        begin = time.perf_counter()
        messages = load_messages(keys[start : start + at_once], endpoints)
        encoded = time.perf_counter()
        commit(nft, messages)
        encoding += encoded - begin
        committing += time.perf_counter() - encoded
    elements = len(keys) * (endpoints + 2)
    say(
        f"cold load, {at_once} services a transaction: {elements} elements in {(encoding + committing) * 1e3:.0f} ms: "
        f"{encoding / elements * 1e6:.2f} us encoding and {committing / elements * 1e6:.2f} us commit an element"
    )


def repeat(words: str, change: Callable[[int], None]) -> None:
    """Time one kind of change."""
    taken = []
    for number in range(REPETITIONS):
        begin = time.perf_counter()
        change(number)
        taken.append((time.perf_counter() - begin) * 1e6)
    taken.sort()
    p50, p99 = taken[REPETITIONS // 2], taken[REPETITIONS * 99 // 100]
    say(f"{words}: min {taken[0]:.0f} p50 {p50:.0f} p99 {p99:.0f} us")


def changes(nft: NftSocket, keys: list[bytes], endpoints: int) -> None:
    """Single changes beside everything that is loaded."""

    def replace(number: int) -> None:
        key = layout.slot_key(keys[number], 0)
        value = layout.endpoint_value(address(number), 9090)
        commit(nft, delete_keys(TABLE, layout.ENDPOINTS, [key]), add_elements(TABLE, layout.ENDPOINTS, [(key, value)]))

    def grow(number: int) -> None:
        key, chain = keys[number], EndpointChain(slots=endpoints + 1).name.encode()
        slot = layout.slot_key(key, endpoints)
        commit(
            nft,
            add_elements(TABLE, layout.ENDPOINTS, [(slot, layout.endpoint_value(address(number), 9090))]),
            delete_keys(TABLE, layout.SERVICE_IPS, [key]),
            add_elements(TABLE, layout.SERVICE_IPS, [(key, chain)]),
        )

    def firewall(number: int) -> None:
        ranges = layout.source_ranges(keys[number], [RANGE])
        commit(
            nft,
            add_keys(TABLE, layout.FIREWALLED, [keys[number]]),
            add_ranges(TABLE, layout.ALLOWED_SOURCES, ranges),
        )

    repeat("replace one endpoint", replace)
    repeat("grow one endpoint set", grow)
    repeat("give one more frontend a source range, beside 0 to 300", firewall)


def main() -> None:
    """Run all of it in a namespace of its own."""
    services = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    endpoints = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    keys = [layout.frontend_key(address(number), 6, 80) for number in range(services)]
    with NetNs("bench") as namespace, namespace.call(NftSocket) as nft:
        cold_load(nft, keys, endpoints, services)
        cold_load(nft, keys, endpoints, SERVICES_PER_TRANSACTION)
        changes(nft, keys, endpoints)
        begin = time.perf_counter()
        count = sum(1 for _ in nft.dump_elements(TABLE, layout.ENDPOINTS))
        say(f"dump of {count} elements: {(time.perf_counter() - begin) * 1e3:.0f} ms")
        begin = time.perf_counter()
        size = len(namespace.ruleset())
        say(f"stock nft list ruleset, {size} bytes: {(time.perf_counter() - begin) * 1e3:.0f} ms")
    say(f"largest resident size: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")


if __name__ == "__main__":
    main()
