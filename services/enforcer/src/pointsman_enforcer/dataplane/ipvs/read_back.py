# SPDX-License-Identifier: Apache-2.0
"""Reads a rendering's records back by their keys, and says which are not as written. Lists nothing of others.

A virtual server is read with its traits, its real servers with their weights. Of an element the kernel says by key only
whether it is in its set; that it carries another mark than it should is found by the slow look at whole sets.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Final

from pointsman_enforcer.dataplane.base import KernelError, ReadBack
from pointsman_enforcer.dataplane.ipvs.genetlink.channel import IpvsChannel, IpvsError
from pointsman_enforcer.dataplane.ipvs.genetlink.model import RealServerId, VirtualServerId
from pointsman_enforcer.dataplane.ipvs.kernel_sets import KernelSets
from pointsman_enforcer.dataplane.ipvs.layout import Id, Kind, real_of, records, server_of
from pointsman_enforcer.dataplane.ipvs.watch import Suspicion

_SHOWN_MAX: Final = 4


class Reader:
    """See `Dataplane.read_back`. Sockets of its own, in the network namespace of the thread that makes it."""

    def __init__(self, suspect: Callable[[Suspicion], None]) -> None:
        """`suspect` hears of what differs. IpvsError or OSError when we may not ask."""
        self._channel = IpvsChannel()
        self._sets = KernelSets()
        self._suspect = suspect
        self._rendering = b""
        self._reals: tuple[VirtualServerId, dict[RealServerId, int]] | None = None
        """Of the virtual server that was read last, of the rendering that is half read."""

    def close(self) -> None:
        """Close the sockets."""
        self._channel.close()
        self._sets.close()

    def read_back(self, rendering: bytes, start: int, most: int) -> ReadBack:
        """See `Dataplane.read_back`."""
        if rendering is not self._rendering or not start:
            self._rendering, self._reals = rendering, None
        found, words, members, reads = Suspicion(), list[str](), list[tuple[str, str]](), 0
        try:
            for record, value in islice(records(rendering), start, start + most):
                reads += 1
                if record.kind in (Kind.MEMBER, Kind.SHARED):
                    name, _, element = record.key.decode().partition(" ")
                    members.append((name, element))
                    continue
                place, differs = self._differs(record, value)
                if differs:
                    found.servers.add(place)
                    words.append(differs)
            missing = [each for each, is_there in zip(members, self._sets.has(members), strict=True) if not is_there]
        except (IpvsError, OSError) as error:
            raise KernelError(f"reading back: {error}") from error
        found.sets = bool(missing)
        words += [f"{element} is missing in {name}" for name, element in missing]
        self._suspect(found)
        more = f" and {len(words) - _SHOWN_MAX} more" if len(words) > _SHOWN_MAX else ""
        return ReadBack(reads, len(words), ", ".join(words[:_SHOWN_MAX]) + more)

    def _differs(self, record: Id, value: bytes) -> tuple[VirtualServerId, str]:
        """What a record is about, and how it differs."""
        if record.kind is Kind.SERVER:
            wanted, _ = server_of(record, value)
            has = self._channel.service(wanted.id)
            return wanted.id, "" if has == wanted else f"{wanted.id} is {'missing' if has is None else 'another'}"
        place, real = real_of(record, value)
        if self._reals is None or self._reals[0] != place:
            self._reals = place, {each.id: each.weight for each in self._channel.dests(place)}
        weight = self._reals[1].get(real.id)
        if weight == real.weight:
            return place, ""
        how = "missing" if weight is None else f"of weight {weight}, not {real.weight}"
        return place, f"a real server of {place}, {real.id.address.hex()}:{real.id.port}, is {how}"
