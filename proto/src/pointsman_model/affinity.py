# SPDX-License-Identifier: Apache-2.0
"""Which endpoint a client of a Service with ClientIP affinity gets first: the same on every node, in every backend.

    bucket = high 32 bits of jhash(client address, HASH_SEED) * buckets
    endpoint = pick_table(endpoints)[bucket]

The hash is Jenkins' lookup3 as Linux has it (`jhash`), because nftables computes it in the kernel; the Python twin here
is for everybody else. The table is Maglev's (Eisenbud et al., NSDI 2016): each endpoint has its own preference list of
buckets and takes its next free one in turn, so a changed set of endpoints moves few buckets between those that stay.
Unlike there, each endpoint has a quota, so weights are honoured to the bucket.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from math import gcd
from typing import Final

from pointsman_model.plan import PlanEndpoint

HASH_SEED: Final = 0x706D
"""The same everywhere and for ever: it decides which endpoint a client gets."""

BUCKET_COUNTS: Final = (251, 1021, 4093, 16381, 65521)
"""Sizes a table may have, all prime: few, because kernel rules are made for each that is in use."""
BUCKETS_PER_SHARE: Final = 16
"""A table is the smallest that has so many buckets for each share; the shares of two endpoints of equal weight then
differ by at most one in sixteen."""

_WORD: Final = 0xFFFFFFFF
_START: Final = 0xDEADBEEF


def bucket_of(client: bytes, buckets: int) -> int:
    """The bucket of a client address (4 or 16 bytes) in a table of that many."""
    return jhash(client, HASH_SEED) * buckets >> 32


def bucket_count(endpoints: Sequence[PlanEndpoint]) -> int:
    """How many buckets the table of these endpoints has.

    Raises:
        ValueError: there are none, or more than the largest table has buckets.
    """
    if not 0 < len(endpoints) <= BUCKET_COUNTS[-1]:
        raise ValueError(f"with session affinity a set has 1 to {BUCKET_COUNTS[-1]} endpoints, not {len(endpoints)}")
    weights = [endpoint.weight for endpoint in endpoints]
    wanted = BUCKETS_PER_SHARE * sum(weights) // gcd(*weights)
    return next((count for count in BUCKET_COUNTS if count >= wanted), BUCKET_COUNTS[-1])


def pick_table(endpoints: Sequence[PlanEndpoint]) -> tuple[int, ...]:
    """For each bucket the index of its endpoint in `endpoints`.

    A function of addresses, ports and weights; the order of `endpoints` (sorted, as plans have it) breaks ties. Each
    endpoint has its share of the buckets, rounded down or up, and at least one. Errors as in `bucket_count`.
    """
    buckets = bucket_count(endpoints)
    quotas = _quotas([endpoint.weight for endpoint in endpoints], buckets)
    return _fill(tuple(_identity(endpoint) for endpoint in endpoints), quotas, buckets)


def pick(client: bytes, endpoints: Sequence[PlanEndpoint]) -> PlanEndpoint:
    """The endpoint that a client with no memory gets."""
    table = pick_table(endpoints)
    return endpoints[table[bucket_of(client, len(table))]]


def endpoint_number(endpoint: PlanEndpoint) -> int:
    """A number 0..2^64-1 that depends on address and port alone."""
    return int.from_bytes(hashlib.blake2b(_identity(endpoint), digest_size=8).digest())


def _identity(endpoint: PlanEndpoint) -> bytes:
    return endpoint.address + endpoint.port.to_bytes(2)


def _quotas(weights: Sequence[int], buckets: int) -> tuple[int, ...]:
    """Largest remainders: shares rounded down, what is left to those that lost most, the first of equals."""
    total = sum(weights)
    quotas = [max(1, weight * buckets // total) for weight in weights]
    left = buckets - sum(quotas)
    by_loss = sorted(range(len(weights)), key=lambda index: -(weights[index] * buckets % total))
    for index in by_loss[:left] if left > 0 else ():
        quotas[index] += 1
    while left < 0:  # endpoints that round to nothing got one nevertheless
        quotas[quotas.index(max(quotas))] -= 1
        left += 1
    return tuple(quotas)


@lru_cache(maxsize=64)
def _fill(identities: tuple[bytes, ...], quotas: tuple[int, ...], buckets: int) -> tuple[int, ...]:
    """Rounds in which each endpoint takes its next free bucket, as often as its quota asks of that round."""
    table = [-1] * buckets
    walks = [_walk(identity, buckets) for identity in identities]
    rounds = max(quotas)
    for done in range(rounds):
        for index, quota in enumerate(quotas):
            if quota * (done + 1) // rounds == quota * done // rounds:
                continue
            bucket, step = walks[index]
            while table[bucket] >= 0:
                bucket = (bucket + step) % buckets
            table[bucket] = index
            walks[index] = (bucket + step) % buckets, step
    return tuple(table)


def _walk(identity: bytes, buckets: int) -> tuple[int, int]:
    """First bucket and step of an endpoint's preference list, which visits every bucket: their number is prime."""
    digest = hashlib.blake2b(identity, digest_size=16, person=b"pointsman-pick").digest()
    return int.from_bytes(digest[:8]) % buckets, int.from_bytes(digest[8:]) % (buckets - 1) + 1


def jhash(key: bytes, seed: int) -> int:
    """Jenkins' hash of some bytes, as Linux on little-endian machines computes it: 0..2^32-1."""
    a = b = c = (_START + len(key) + seed) & _WORD
    start = 0
    while len(key) - start > 12:
        a, b, c = (_add(word, key, start + 4 * place) for place, word in enumerate((a, b, c)))
        a, b, c = _mix(a, b, c)
        start += 12
    if start == len(key):
        return c
    a, b, c = (_add(word, key, start + 4 * place) for place, word in enumerate((a, b, c)))
    return _final(a, b, c)


def _add(word: int, key: bytes, start: int) -> int:
    return (word + int.from_bytes(key[start : start + 4], "little")) & _WORD


def _rotate(word: int, bits: int) -> int:
    return (word << bits | word >> 32 - bits) & _WORD


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    for bits in (4, 6, 8, 16, 19, 4):
        a = ((a - c) & _WORD) ^ _rotate(c, bits)
        c = (c + b) & _WORD
        a, b, c = b, c, a
    return a, b, c


def _final(a: int, b: int, c: int) -> int:
    for bits in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - _rotate(b, bits)) & _WORD
        a, b, c = b, c, a
    return b
