# SPDX-License-Identifier: Apache-2.0
"""The kernel's memory of clients, in the words of plans: to report it, and to give a node what another one knows.

The memory is written by rules and never listed in steady state: a dump costs about 4 us for each client.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from pointsman_enforcer.dataplane.nftables import layout
from pointsman_enforcer.dataplane.nftables.affinity import ID_SPECS, SET_SPECS, port_of
from pointsman_enforcer.dataplane.nftables.elements import Element, add_timed
from pointsman_enforcer.dataplane.nftables.errors import NetlinkError
from pointsman_enforcer.dataplane.nftables.kernel import NftKernel
from pointsman_enforcer.dataplane.nftables.message import Batch, Family, Table
from pointsman_enforcer.dataplane.nftables.packed import Records, section_of, unpack
from pointsman_enforcer.dataplane.nftables.render import family_of, frontend_key
from pointsman_model.affinity import bucket_of, pick_table
from pointsman_model.plan import FrontendKind, PlanEndpoint, ServicePlan, ServicePortPlan

SECOND_MS: Final = 1000
_SEEDS_PER_BATCH: Final = 500
_ALREADY_THERE: Final = (errno.EBUSY, errno.EEXIST)
Memory = dict[tuple[Family, bytes], list[tuple[bytes, bytes, int]]]
"""Client address, `ID:N` and milliseconds left, by family and `ID:0`."""


class AffinityClient(NamedTuple):
    """A client of a ServicePort and the endpoint that it keeps.

    Attributes:
        name: of the ServicePort.
        protocol: IP protocol number.
        client: address, 4 or 16 bytes.
        endpoint: its address and port.
        left_ms: when it is forgotten if it does not connect again.
        is_pick: a node without memory would choose the same.
    """

    name: str
    protocol: int
    client: bytes
    endpoint: tuple[bytes, int]
    left_ms: int
    is_pick: bool = False


def memory_of(family: Family, elements: Iterable[Element]) -> Memory:
    """The memory of one family, given the elements of `affinity`."""
    memory: Memory = {}
    for element in elements:
        known = (element.key[4:], element.data, element.expiration_ms)
        memory.setdefault((family, element.key[:4]), []).append(known)
    return memory


def clients_of(plan: ServicePlan, rendering: bytes, memory: Memory) -> Iterator[AffinityClient]:
    """Clients of a service whose endpoint it still has. `rendering` is what the kernel has of the plan."""
    sections = unpack(rendering)
    for port in plan.ports:
        number = _number_of(port, sections)
        known = memory.get((family_of(port.family), number), ()) if number else ()
        if not known:
            continue
        endpoints = {member: endpoint for endpoint, member in _members_of(port, sections, number).items()}
        tables = [(chosen, pick_table(chosen)) for chosen in port.endpoint_sets]
        for client, member, left_ms in known:
            endpoint = endpoints.get(member)
            if endpoint is not None:
                is_pick = any(_pick(client, chosen, table) == endpoint for chosen, table in tables)
                yield AffinityClient(port.name, port.protocol, client, endpoint, left_ms, is_pick)


def seeds_of(
    plan: ServicePlan, rendering: bytes, clients: Sequence[AffinityClient]
) -> Iterator[tuple[Family, tuple[bytes, bytes, int, int]]]:
    """Elements (key, value, timeout, time left) that make the kernel remember clients whose endpoint is known here."""
    sections = unpack(rendering)
    timeout_ms = plan.affinity_timeout_seconds * SECOND_MS
    for port in plan.ports:
        number = _number_of(port, sections)
        if not (number and timeout_ms):
            continue
        members = _members_of(port, sections, number)
        for each in clients:
            is_here = (each.name, each.protocol, len(each.client)) == (
                port.name,
                port.protocol,
                port.family.address_bytes,
            )
            member = members.get(each.endpoint) if is_here else None
            if member is not None and each.left_ms > 0:
                left_ms = min(each.left_ms, timeout_ms)
                yield family_of(port.family), (number + each.client, member, timeout_ms, left_ms)


async def seed(
    nft: NftKernel, tables: Mapping[Family, Table], seeds: Iterable[tuple[Family, tuple[bytes, bytes, int, int]]]
) -> int:
    """Add what `seeds_of` made, except where the memory has that client already; how many were taken.

    Raises:
        NetlinkError: refused for another reason.
    """
    waiting = [message for family, each in seeds for message in add_timed(tables[family], layout.AFFINITY, [each])]
    taken = 0
    for start in range(0, len(waiting), _SEEDS_PER_BATCH):
        batch = waiting[start : start + _SEEDS_PER_BATCH]
        while batch:
            try:
                await nft.commit(Batch(batch))
            except NetlinkError as error:
                if error.errno not in _ALREADY_THERE or error.message_index is None:
                    raise
                del batch[error.message_index]
            else:
                taken += len(batch)
                break
    return taken


def _number_of(port: ServicePortPlan, sections: Mapping[int, Records]) -> bytes:
    """`ID:0` of a port, empty when it has none."""
    if not port.frontends:
        return b""
    first = port.frontends[0]
    spec = ID_SPECS[first.kind is FrontendKind.NODE_PORT]
    found = sections.get(section_of(family_of(port.family), spec).number, {})
    return found.get(frontend_key(port, first), b"")


def _members_of(
    port: ServicePortPlan, sections: Mapping[int, Records], number: bytes
) -> dict[tuple[bytes, int], bytes]:
    """`ID:N` of each endpoint of a port."""
    family = family_of(port.family)
    found: dict[tuple[bytes, int], bytes] = {}
    for spec in SET_SPECS:
        for key, value in sections.get(section_of(family, spec).number, {}).items():
            if port_of(key[4:]) == number:
                end = family.address_bytes
                found[value[:end], int.from_bytes(value[end : end + 2])] = key[4:]
    return found


def _pick(client: bytes, endpoints: Sequence[PlanEndpoint], table: Sequence[int]) -> tuple[bytes, int]:
    chosen = endpoints[table[bucket_of(client, len(table))]]
    return chosen.address, chosen.port
