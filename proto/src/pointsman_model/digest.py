# SPDX-License-Identifier: Apache-2.0
"""Digests of plans, as `pointsman.plan.v1` defines them: one number for a service, 1024 sums for a node.

Sums are modulo 2^64, so a change of one service costs one subtraction and one addition, whatever the node's size.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pointsman_model.names import ServiceKey

BUCKET_COUNT = 1024
_MASK = (1 << 64) - 1


def plan_digest(key: ServiceKey, plan: bytes) -> int:
    """Digest of one service's plan: BLAKE2b-64 of `namespace NUL name NUL plan`, little-endian."""
    return int.from_bytes(blake2b(_key_bytes(key) + b"\x00" + plan, digest_size=8).digest(), "little")


def bucket_of(key: ServiceKey) -> int:
    """The bucket, 0..1023, that a service belongs to."""
    return int.from_bytes(blake2b(_key_bytes(key), digest_size=8).digest(), "little") % BUCKET_COUNT


def _key_bytes(key: ServiceKey) -> bytes:
    return f"{key.namespace}\x00{key.name}".encode()


class DigestBuckets:
    """The bucket sums of one plan; all zero for an empty plan."""

    __slots__ = ("_sums", "_total")

    def __init__(self, sums: Sequence[int] | None = None) -> None:
        """Start from given sums (1024 of them) or from an empty plan; ValueError when there are not 1024."""
        if sums is not None and len(sums) != BUCKET_COUNT:
            raise ValueError(f"a plan has {BUCKET_COUNT} bucket digests, got {len(sums)}")
        self._sums = list(sums) if sums is not None else [0] * BUCKET_COUNT
        self._total = sum(self._sums) & _MASK

    @property
    def total(self) -> int:
        """Digest of the whole plan."""
        return self._total

    @property
    def sums(self) -> tuple[int, ...]:
        """The bucket sums."""
        return tuple(self._sums)

    def replace(self, bucket: int, old: int, new: int) -> None:
        """Exchange one service's digest in its bucket; 0 stands for absent on either side."""
        self._sums[bucket] = (self._sums[bucket] - old + new) & _MASK
        self._total = (self._total - old + new) & _MASK

    def differing(self, other: Iterable[int]) -> tuple[int, ...]:
        """Numbers of the buckets whose sum differs from the other side's, ascending."""
        return tuple(
            index for index, (mine, theirs) in enumerate(zip(self._sums, other, strict=True)) if mine != theirs
        )
