# SPDX-License-Identifier: Apache-2.0
"""`plan.v1.AffinityMemory`, which enforcers and planners send each other alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_model.names import IPV4_BYTES, IPV6_BYTES, Protocol, ServiceKey, ServicePortName, is_object_name
from pointsman_model.remembered import ClientKey, RememberedClient
from pointsman_model.wire import PORT_MAX, protocol_to_pb

ENTRIES_MAX: Final = 10_000
"""Of one message that is read."""
ENTRIES_SENT_MAX: Final = 1_000
"""Of one message that is written: with the longest names there are it stays below 1 MiB."""
LEFT_MS_MAX: Final = 86_400_000
"""The longest affinity timeout there is."""
_PORT_NAME_CHARACTERS_MAX: Final = 63
_PROTOCOLS: Final = {int(protocol): protocol for protocol in Protocol}


def memory_to_pb(entries: Iterable[RememberedClient]) -> pb.AffinityMemory:
    """The message of these clients, at most ENTRIES_MAX."""
    message = pb.AffinityMemory()
    for key, (address, port), left_ms in entries:
        entry = message.entries.add(
            port_name=key.port.port,
            protocol=protocol_to_pb(key.port.protocol),
            client=key.client,
            endpoint_address=address,
            endpoint_port=port,
        )
        entry.service.namespace, entry.service.name = key.port.service
        entry.remaining.seconds, entry.remaining.nanos = divmod(left_ms, 1000)
        entry.remaining.nanos *= 1_000_000
    return message


def memories_to_pb(entries: Sequence[RememberedClient]) -> Iterator[pb.AffinityMemory]:
    """As many messages as these clients need."""
    for start in range(0, len(entries), ENTRIES_SENT_MAX):
        yield memory_to_pb(entries[start : start + ENTRIES_SENT_MAX])


def memory_from_pb(message: pb.AffinityMemory) -> list[RememberedClient]:
    """The clients in a message that could be ones.

    An entry that no client could have, or beyond the ENTRIES_MAX-th, is left out: nothing depends on it.
    """
    return [found for entry in islice(message.entries, ENTRIES_MAX) if (found := _client(entry)) is not None]


def _client(entry: pb.AffinityEntry) -> RememberedClient | None:
    protocol = _PROTOCOLS.get(entry.protocol)
    names = entry.service.namespace, entry.service.name
    left_ms = entry.remaining.seconds * 1000 + entry.remaining.nanos // 1_000_000
    if (
        protocol is None
        or not all(map(is_object_name, names))
        or not _is_port_name(entry.port_name)
        or len(entry.client) not in (IPV4_BYTES, IPV6_BYTES)
        or len(entry.endpoint_address) != len(entry.client)
        or not 0 < entry.endpoint_port <= PORT_MAX
        or left_ms <= 0
    ):
        return None
    key = ClientKey(ServicePortName(ServiceKey(*names), entry.port_name, protocol), entry.client)
    return RememberedClient(key, (entry.endpoint_address, entry.endpoint_port), min(left_ms, LEFT_MS_MAX))


def _is_port_name(text: str) -> bool:
    return not text or (len(text) <= _PORT_NAME_CHARACTERS_MAX and is_object_name(text))
