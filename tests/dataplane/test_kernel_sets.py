# SPDX-License-Identifier: Apache-2.0
"""Sets of a real kernel, asked for their sizes and for single elements, and never listed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from pointsman_enforcer.dataplane.ipvs.change import Sums
from pointsman_enforcer.dataplane.ipvs.kernel_sets import KernelSets
from pointsman_enforcer.dataplane.ipvs.observe import sums_of
from pointsman_enforcer.dataplane.ipvs.static import create_lines
from pointsman_model.names import Family
from support.netns import NetNs

pytestmark = pytest.mark.root
ELEMENTS = [
    ("pointsman-ipvs-vips4", "172.30.0.1"),
    ("pointsman-ipvs-others4", "172.30.0.1,tcp:80"),
    ("pointsman-ipvs-pod6", "fd00::1,sctp:9"),
    ("pointsman-ipvs-allowed4", "1.2.3.4,udp:53,10.0.0.0/8"),
    ("pointsman-ipvs-allowed6", "fd00::4,tcp:53,2001:db8::/32"),
    ("pointsman-ipvs-hairpin4", "10.1.0.1,tcp:8080,10.1.0.1"),
    ("pointsman-ipvs-nodes4", "0.0.0.0/1"),
    ("pointsman-ipvs-nodes6", "2001:db8::2"),
    ("pointsman-ipvs-ports-others4", "128.0.0.0/1,udp:30053"),
]


@pytest.fixture(name="namespace")
def with_our_sets() -> Iterator[NetNs]:
    with NetNs("sets") as namespace:
        lines = [line for family in Family for line in create_lines(family)]
        namespace.run("ipset", "restore", stdin="\n".join(lines) + "\n")
        yield namespace


def test_each_element_is_found_once_it_is_there_and_sizes_count_it(namespace: NetNs) -> None:
    with closing(namespace.call(KernelSets)) as sets:
        assert set(sets.sizes().values()) == {0}
        assert sets.has(ELEMENTS) == [False] * len(ELEMENTS)
        for name, element in ELEMENTS:
            namespace.run("ipset", "add", name, element)
        assert sets.has(ELEMENTS) == [True] * len(ELEMENTS)
        sizes = sets.sizes()
        assert sum(sizes.values()) == len(ELEMENTS)
        assert sizes["pointsman-ipvs-others4"] == 1
        assert (
            sets.has([("pointsman-ipvs-others4", "172.30.0.1,udp:80"), ("pointsman-nosuch4", "1.2.3.4")]) == [False] * 2
        )


def test_sums_that_changes_keep_are_those_of_what_ipset_prints(namespace: NetNs) -> None:
    kept = Sums()
    for name, element in ELEMENTS:
        namespace.run("ipset", "add", name, element)
        kept.add(f"{name} {element}".encode(), b"")
    namespace.run("ipset", "add", "pointsman-ipvs-others4", "172.30.0.9,tcp:1", "skbmark", "0x80000005")
    assert sums_of(namespace.run("ipset", "save")) != kept
    kept.add(b"pointsman-ipvs-others4 172.30.0.9,tcp:1", b"skbmark 0x80000005")
    assert sums_of(namespace.run("ipset", "save")) == kept
    kept.remove(b"pointsman-ipvs-others4 172.30.0.9,tcp:1", b"skbmark 0x80000005")
    namespace.run("ipset", "add", "-exist", "pointsman-ipvs-others4", "172.30.0.9,tcp:1", "skbmark", "0x80000006")
    assert sums_of(namespace.run("ipset", "save")) != kept
