# SPDX-License-Identifier: Apache-2.0
"""Reads elements back by their keys, and says which are not as a rendering has them. Lists nothing.

What differs is noted as if somebody had been seen touching it, so that mending it is the same work as mending drift.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice

from pointsman_enforcer.dataplane.base import KernelError, ReadBack
from pointsman_enforcer.dataplane.nftables.apply import TABLES
from pointsman_enforcer.dataplane.nftables.drift import Monitor
from pointsman_enforcer.dataplane.nftables.elements import Element
from pointsman_enforcer.dataplane.nftables.errors import NftablesError
from pointsman_enforcer.dataplane.nftables.kernel import NftKernel
from pointsman_enforcer.dataplane.nftables.notifications import Touched
from pointsman_enforcer.dataplane.nftables.packed import SECTIONS, Section, bodies, records, target_of

_SHOWN_MAX = 4


def reader(kernel: NftKernel, monitor: Monitor | None) -> partial[ReadBack]:
    """`Dataplane.read_back` of a kernel; `monitor` is told of what differs."""
    return partial(read_back, kernel, monitor)


def read_back(kernel: NftKernel, monitor: Monitor | None, rendering: bytes, start: int, most: int) -> ReadBack:
    """See `Dataplane.read_back`."""
    touched, words, reads = Touched(), [], 0
    try:
        for section, key, value in islice(_elements(rendering), start, start + most):
            reads += 1
            found = kernel.get_element(TABLES[section.family], section.spec, _first(section, key))
            if _value(section, found) == _expected(section, key, value):
                continue
            touched.kinds.add("element")
            touched.touch_elements((section.family, section.spec.name), (key,))
            words.append(f"{section.spec.name} {key.hex()} is {'missing' if found is None else 'another'}")
    except NftablesError as error:
        raise KernelError(f"reading elements back: {error}") from error
    if touched.is_any and monitor is not None:
        monitor.put_back(touched)
    more = f" and {len(words) - _SHOWN_MAX} more" if len(words) > _SHOWN_MAX else ""
    return ReadBack(reads, len(words), ", ".join(words[:_SHOWN_MAX]) + more)


def _elements(rendering: bytes) -> Iterator[tuple[Section, bytes, bytes]]:
    """Every element that can be asked for by its key: all but ranges of single addresses, which are the node's own."""
    for number, body in bodies(rendering).items():
        section = SECTIONS[number]
        if section.spec.timeout or (section.spec.interval and len(section.spec.key) == 1):
            continue
        for key, value in records(number, body).items():
            yield section, key, value


def _first(section: Section, key: bytes) -> bytes:
    """The key to ask for; a range is found by its beginning."""
    return key[: len(key) // 2] if section.spec.interval else key


def _expected(section: Section, key: bytes, value: bytes) -> bytes:
    return key[len(key) // 2 :] if section.spec.interval else value


def _value(section: Section, found: Element | None) -> bytes | None:
    """What the kernel has, in the form of renderings: of a range its end."""
    if found is None:
        return None
    if section.spec.interval:
        return found.key_end
    return target_of(found.data) if section.spec.verdicts else found.data
