# SPDX-License-Identifier: Apache-2.0
"""Subsets of endpoints: balanced over nodes, and moved by a change no more than it must."""

from __future__ import annotations

from collections import Counter
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman_planner.core.service_state import PortEndpoint
from pointsman_planner.core.subsetting import EndpointRing, parse_count

NODES = [f"node-{number}" for number in range(1000)]


def make_endpoints(numbers: range | set[int]) -> list[PortEndpoint]:
    return [PortEndpoint((0x0A000000 + number).to_bytes(4, "big"), 8080) for number in sorted(numbers)]


@given(st.sets(st.integers(0, 500), max_size=40), st.text(min_size=1, max_size=8), st.integers(1, 50))
def test_a_node_has_exactly_so_many_or_all_of_them_whatever_their_order(
    numbers: set[int], name: str, count: int
) -> None:
    endpoints = make_endpoints(numbers)

    chosen = EndpointRing(endpoints).subset(name, count)

    assert len(set(chosen)) == len(chosen) == min(count, len(endpoints))
    assert set(chosen) <= set(endpoints)
    assert chosen == EndpointRing(reversed(endpoints)).subset(name, count)


@given(st.sets(st.integers(0, 500), min_size=2, max_size=40), st.data(), st.integers(1, 20))
def test_an_endpoint_that_goes_is_replaced_by_one_where_it_was_used_and_nowhere_else(
    numbers: set[int], data: st.DataObject, count: int
) -> None:
    gone = make_endpoints({data.draw(st.sampled_from(sorted(numbers)))})[0]
    endpoints = make_endpoints(numbers)
    before = EndpointRing(endpoints)
    after = EndpointRing(e for e in endpoints if e != gone)

    for name in NODES[:20]:
        old, new = set(before.subset(name, count)), set(after.subset(name, count))
        assert old - new == old & {gone}
        assert len(new - old) <= len(old - new)


@given(st.sets(st.integers(0, 500), max_size=40), st.integers(1, 20))
def test_a_larger_count_only_adds(numbers: set[int], count: int) -> None:
    ring = EndpointRing(make_endpoints(numbers))

    assert set(ring.subset("node", count)) <= set(ring.subset("node", count + 1))


@pytest.mark.parametrize("count", [50, 100])
def test_every_endpoint_is_used_by_about_as_many_nodes(count: int) -> None:
    endpoints = make_endpoints(range(2000))
    ring = EndpointRing(endpoints)

    uses = Counter(e for name in NODES for e in ring.subset(name, count))

    mean = len(NODES) * count / len(endpoints)
    deviation = sqrt(mean + mean**2 / count)
    loads = [uses[e] for e in endpoints]
    assert sum(loads) == len(NODES) * count
    assert max(loads) <= mean + 5 * deviation
    assert sqrt(sum((load - mean) ** 2 for load in loads) / len(loads)) <= 1.5 * deviation


@pytest.mark.parametrize("text", ["", "0", "000", "-1", "1.5", "ten", "٣", "1000000", " 5"])
def test_what_is_no_count_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"pointsman\.io/endpoint-subset"):
        parse_count(text)


def test_a_count_is_read() -> None:
    assert parse_count("50") == 50
