# SPDX-License-Identifier: Apache-2.0
"""The plan that the kit has sent: small services that any dataplane can program, and their digests.

Digests are computed here from the words of plan_service.proto, with nothing of Pointsman's own code, so that the kit is
a second opinion.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman.types.v1 import types_pb2

BUCKETS = 1024
Key = tuple[str, str]


def _hash(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def digest_of(key: Key, plan: bytes) -> int:
    """Digest of one service."""
    return _hash(b"\0".join((key[0].encode(), key[1].encode(), plan)))


def bucket_of(key: Key) -> int:
    """The bucket of one service."""
    return _hash(b"\0".join((key[0].encode(), key[1].encode()))) % BUCKETS


def name_of(key: Key) -> types_pb2.NamespacedName:
    """A key as a message."""
    return types_pb2.NamespacedName(namespace=key[0], name=key[1])


class PlanBook:
    """Services by key."""

    def __init__(self, held: Mapping[Key, bytes] | None = None) -> None:
        self.held: dict[Key, bytes] = dict(held or {})

    def copy(self) -> PlanBook:
        """A book of its own."""
        return PlanBook(self.held)

    def change(self, updates: Mapping[Key, bytes], removals: Iterable[Key] = ()) -> None:
        """What a transaction does."""
        self.held.update(updates)
        for key in removals:
            self.held.pop(key, None)

    @property
    def buckets(self) -> list[int]:
        """Bucket digests."""
        sums = [0] * BUCKETS
        for key, plan in self.held.items():
            sums[bucket_of(key)] += digest_of(key, plan)
        return [value % (1 << 64) for value in sums]

    @property
    def digest(self) -> int:
        """Digest of everything."""
        return sum(self.buckets) % (1 << 64)


def service_plan(number: int, endpoints: int = 2, *, requires: str = "") -> bytes:
    """TCP port 80 of a cluster IP of its own, forwarded to endpoints of the ranges that are kept for benchmarks."""
    plan = pb.ServicePlan()
    if requires:
        plan.required_capabilities.append(requires)
    port = plan.ports.add(name="http", protocol=types_pb2.PROTOCOL_TCP, family=types_pb2.IP_FAMILY_IPV4)
    frontend = port.frontends.add(
        kind=pb.Frontend.KIND_CLUSTER_IP, address=bytes((198, 18, number >> 8, number & 255)), port=80
    )
    for verdict in (frontend.from_pod, frontend.from_host, frontend.from_outside):
        verdict.action = pb.Verdict.ACTION_FORWARD
    frontend.from_host.masquerade = frontend.from_outside.masquerade = True
    port.endpoint_sets.add(
        addresses=b"".join(bytes((198, 19, number & 255, last)) for last in range(1, endpoints + 1)),
        ports=[8080] * endpoints,
    )
    return plan.SerializeToString(deterministic=True)


def node_facts(name: str) -> pb.NodeFacts:
    """Facts of a node with one address."""
    facts = pb.NodeFacts(name=name, addresses=[bytes((192, 0, 2, 1))], eligible=True)
    facts.service_cidrs.add(address=bytes((198, 18, 0, 0)), length=16)
    return facts


def bulk(count: int, start: int = 0) -> dict[Key, bytes]:
    """Many services."""
    return {("kit", f"service-{number}"): service_plan(number) for number in range(start, start + count)}
