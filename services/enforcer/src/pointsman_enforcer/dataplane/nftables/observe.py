# SPDX-License-Identifier: Apache-2.0
"""What a table of ours holds, read back once and handed out service by service.

Elements carry no owner: a service's elements are those under the keys of its frontends. So `claim` takes them out, and
what nobody has claimed when the whole plan is programmed belongs to no service and may go.

A hundred thousand endpoints are kept as packed bytes, one string for each frontend.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from pointsman_enforcer.dataplane.nftables import layout
from pointsman_enforcer.dataplane.nftables.affinity import ID_SPECS, SET_SPECS, port_of
from pointsman_enforcer.dataplane.nftables.change import Ledger, NftChange
from pointsman_enforcer.dataplane.nftables.elements import Element
from pointsman_enforcer.dataplane.nftables.message import Family
from pointsman_enforcer.dataplane.nftables.packed import SECTIONS, SHARED, Records, Section, section_of, target_of
from pointsman_enforcer.dataplane.nftables.render import family_of, frontend_key
from pointsman_enforcer.dataplane.nftables.sets import SetSpec
from pointsman_model.plan import FrontendKind, ServicePlan

_DISPATCH_SPECS: Final = (
    layout.SERVICE_IPS,
    layout.SERVICE_IPS_FROM_POD,
    layout.SERVICE_IPS_FROM_HOST,
    layout.AFFINITY_IDS,
)
_NODEPORT_SPECS: Final = (
    layout.NODEPORTS,
    layout.NODEPORTS_FROM_POD,
    layout.NODEPORTS_FROM_HOST,
    layout.AFFINITY_NODEPORT_IDS,
)
_SUFFIXED: Final = (layout.ENDPOINTS, layout.NODEPORT_ENDPOINTS, layout.ALLOWED_SOURCES, layout.AFFINITY_PICKS)
"""Maps whose key is a frontend's key, or a port's number, and something more: grouped by what is in front."""
_NODE_SPECS: Final = (layout.NODEPORT_ADDRESSES, layout.SERVICE_CIDRS)
_LEFTOVER_CHUNK: Final = 2000

Dump = Callable[[SetSpec], Iterable[Element]]


@dataclass(slots=True)
class Observation:
    """Elements found and not yet claimed. Not frozen: claiming takes out."""

    _single: dict[int, Records] = field(default_factory=dict)
    _grouped: dict[int, dict[bytes, bytearray]] = field(default_factory=dict)
    _members: dict[int, dict[bytes, Records]] = field(default_factory=dict)
    """Endpoints of ports with session affinity, by section and the port's number."""

    def read(self, family: Family, dump: Dump, ledger: Ledger) -> None:
        """Read all sets of one family's table; shared elements go to the ledger."""
        for spec in layout.ALL_SETS:
            if spec in (layout.STATE, layout.AFFINITY):
                continue
            section = section_of(family, spec)
            if section.number in SHARED:
                for element in dump(spec):
                    ledger.found(section.number, element.key)
            elif spec in _SUFFIXED:
                self._read_grouped(section, dump(spec))
            elif spec in SET_SPECS:
                for element in dump(spec):
                    group = self._members.setdefault(section.number, {}).setdefault(port_of(element.key[4:]), {})
                    group[element.key] = element.data
            elif spec.interval:
                self._single[section.number] = {first + last: b"" for first, last in ranges_of(dump(spec))}
            else:
                convert = target_of if spec.verdicts else bytes
                self._single[section.number] = {element.key: convert(element.data) for element in dump(spec)}
                if spec in ID_SPECS:
                    ledger.numbers.found(section.number, self._single[section.number])

    def claim(self, plan: ServicePlan) -> dict[int, Records]:
        """Take out everything under the keys of a plan's frontends."""
        claimed: dict[int, Records] = {}
        for port in plan.ports:
            family = family_of(port.family)
            for frontend in port.frontends:
                key = frontend_key(port, frontend)
                if frontend.kind is FrontendKind.NODE_PORT:
                    self._take(claimed, family, _NODEPORT_SPECS, key)
                    self._take_group(claimed, section_of(family, layout.NODEPORT_ENDPOINTS), key)
                else:
                    self._take(claimed, family, (*_DISPATCH_SPECS, layout.FIREWALLED), key)
                    self._take_group(claimed, section_of(family, layout.ENDPOINTS), key)
                    self._take_group(claimed, section_of(family, layout.ALLOWED_SOURCES), key)
        self._claim_affinity(claimed)
        return claimed

    def _claim_affinity(self, claimed: dict[int, Records]) -> None:
        """Also take out what stands under the numbers that the claimed frontends have."""
        for family in Family:
            ids = [claimed.get(section_of(family, spec).number, {}) for spec in ID_SPECS]
            for number in {number for found in ids for number in found.values()}:
                self._take_group(claimed, section_of(family, layout.AFFINITY_PICKS), number)
                for section in (section_of(family, spec).number for spec in SET_SPECS):
                    members = self._members.get(section, {}).pop(number, None)
                    if members:
                        claimed.setdefault(section, {}).update(members)

    def claim_node(self) -> dict[int, Records]:
        """Take out what belongs to the node."""
        numbers = [section_of(family, spec).number for family in Family for spec in _NODE_SPECS]
        return {number: found for number in numbers if (found := self._single.pop(number, {}))}

    def leftover(self, ledger: Ledger) -> Iterator[NftChange]:
        """Removals of all that is left, dispatch before endpoints, in changes of bounded size."""
        ledger_part = {number: dict.fromkeys(keys, b"") for number, keys in ledger.unclaimed().items()}
        grouped = {number: _ungroup(number, groups) for number, groups in self._grouped.items()}
        members = {number: dict(ChainMap(*groups.values())) for number, groups in self._members.items()}
        for sections in (self._single, grouped, members, ledger_part):
            for number, found in sections.items():
                items = list(found.items())
                for start in range(0, len(items), _LEFTOVER_CHUNK):
                    yield NftChange(removals={number: dict(items[start : start + _LEFTOVER_CHUNK])})

    def _read_grouped(self, section: Section, elements: Iterable[Element]) -> None:
        groups = self._grouped.setdefault(section.number, {})
        prefix = _prefix_bytes(section)
        for element in elements:
            record = element.key[prefix:] + element.key_end + element.data
            group = groups.get(element.key[:prefix])
            if group is None:
                groups[element.key[:prefix]] = bytearray(record)
            else:
                group += record

    def _take(self, claimed: dict[int, Records], family: Family, specs: Iterable[SetSpec], key: bytes) -> None:
        for spec in specs:
            number = section_of(family, spec).number
            value = self._single.get(number, {}).pop(key, None)
            if value is not None:
                claimed.setdefault(number, {})[key] = value

    def _take_group(self, claimed: dict[int, Records], section: Section, key: bytes) -> None:
        group = self._grouped.get(section.number, {}).pop(key, None)
        if group is not None:
            claimed.setdefault(section.number, {}).update(_records(section, key, group))


def _records(section: Section, prefix: bytes, group: bytearray) -> Records:
    """The records of one frontend in a grouped map."""
    width = section.width - len(prefix)
    split = section.key_bytes - len(prefix)
    data = bytes(group)
    return {prefix + data[at : at + split]: data[at + split : at + width] for at in range(0, len(data), width)}


def _ungroup(number: int, groups: dict[bytes, bytearray]) -> Records:
    found: Records = {}
    for prefix, group in groups.items():
        found.update(_records(SECTIONS[number], prefix, group))
    return found


def _prefix_bytes(section: Section) -> int:
    """Length of the frontend's part of a key: all but the slot, or all but the source address."""
    ends = 2 if section.spec.interval else 1
    last = section.spec.key[-1:]
    rest = SetSpec(name="", key=last).key_bytes(section.family)
    return section.key_bytes // ends - rest


def ranges_of(elements: Iterable[Element]) -> list[tuple[bytes, bytes]]:
    """First and last key of each range of a plain interval set, whatever order the kernel lists the ends in."""
    ends = sorted((element.key, not element.interval_end) for element in elements)
    ranges: list[tuple[bytes, bytes]] = []
    start: bytes | None = None
    for key, is_start in ends:
        if start is not None:
            ranges.append((start, (int.from_bytes(key) - 1).to_bytes(len(key))))
        start = key if is_start else None
    if start is not None:
        ranges.append((start, b"\xff" * len(start)))
    return ranges
