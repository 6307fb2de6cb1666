# SPDX-License-Identifier: Apache-2.0
"""Digests as plan.v1 defines them, with fixed values so that another implementation can be checked against them."""

from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman_model.digest import BUCKET_COUNT, DigestBuckets, bucket_of, plan_digest
from pointsman_model.names import ServiceKey

KEY = ServiceKey("default", "kubernetes")
_digests = st.integers(0, 2**64 - 1)


def test_definition() -> None:
    expected = blake2b(b"default\x00kubernetes\x00plan", digest_size=8).digest()
    assert plan_digest(KEY, b"plan") == int.from_bytes(expected, "little")
    assert bucket_of(KEY) == int.from_bytes(blake2b(b"default\x00kubernetes", digest_size=8).digest(), "little") % 1024


def test_key_and_plan_cannot_be_confused() -> None:
    assert plan_digest(ServiceKey("a", "b"), b"c") != plan_digest(ServiceKey("a", "bc"), b"")


@given(st.lists(st.tuples(st.integers(0, BUCKET_COUNT - 1), _digests, _digests), max_size=50))
def test_sums_are_exact_whatever_was_exchanged(exchanges: list[tuple[int, int, int]]) -> None:
    buckets = DigestBuckets()
    sums = [0] * BUCKET_COUNT
    for bucket, old, new in exchanges:
        buckets.replace(bucket, old, new)
        sums[bucket] = (sums[bucket] - old + new) % 2**64
    assert buckets.sums == tuple(sums)
    assert buckets.total == sum(sums) % 2**64
    assert DigestBuckets(sums).total == buckets.total


def test_differing_names_the_buckets() -> None:
    mine = DigestBuckets()
    mine.replace(3, 0, 7)
    mine.replace(1000, 0, 8)
    theirs = [0] * BUCKET_COUNT
    theirs[1000] = 8
    assert mine.differing(theirs) == (3,)
    assert DigestBuckets(theirs).differing(theirs) == ()


def test_a_wrong_number_of_sums_is_refused() -> None:
    with pytest.raises(ValueError, match="1024"):
        DigestBuckets([0])
