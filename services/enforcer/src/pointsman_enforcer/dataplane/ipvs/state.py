# SPDX-License-Identifier: Apache-2.0
"""A virtual server with its real servers as the kernel has it, packed: a node has thousands. Pure."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from pointsman_enforcer.dataplane.ipvs.genetlink import message
from pointsman_enforcer.dataplane.ipvs.genetlink.message import Message
from pointsman_enforcer.dataplane.ipvs.genetlink.model import (
    RealServer,
    RealServerId,
    ServiceFlags,
    VirtualServer,
    VirtualServerId,
)
from pointsman_model.names import Protocol

_HEAD: Final = struct.Struct(">BBIB")
_REAL: Final = struct.Struct(">HI")


class ServerState(NamedTuple):
    """One virtual server."""

    server: VirtualServer
    protocol: Protocol
    """What its port of a Service speaks."""
    weights: dict[RealServerId, int]
    """0: it only keeps the connections it has."""


def pack_state(state: ServerState) -> bytes:
    """As `unpack_state` reads it."""
    server = state.server
    name = server.scheduler.encode()
    parts = [_HEAD.pack(state.protocol, server.flags, server.timeout_seconds, len(name)), name]
    for real, weight in state.weights.items():
        parts += [real.address, _REAL.pack(real.port, weight)]
    return b"".join(parts)


def unpack_state(identity: VirtualServerId, data: bytes) -> ServerState:
    """The state of the virtual server with this identity."""
    protocol, flags, seconds, length = _HEAD.unpack_from(data)
    at = _HEAD.size + length
    server = VirtualServer(
        id=identity,
        scheduler=data[_HEAD.size : at].decode(),
        flags=ServiceFlags(flags),
        timeout_seconds=seconds,
    )
    size = identity.family.address_bytes
    weights = {}
    while at < len(data):
        port, weight = _REAL.unpack_from(data, at + size)
        weights[RealServerId(data[at : at + size], port)] = weight
        at += size + _REAL.size
    return ServerState(server, Protocol(protocol), weights)


def correction(has: ServerState | None, wanted: ServerState | None) -> list[Message]:
    """The messages that turn one state of a virtual server into another; None: there is no such server."""
    if wanted is None:
        return [] if has is None else [message.delete_service(has.server.id)]
    place = wanted.server.id
    if has is None:
        reals = [RealServer(real, weight) for real, weight in wanted.weights.items()]
        return [message.new_service(wanted.server), *(message.new_dest(place, real) for real in reals)]
    messages = [] if has.server == wanted.server else [message.set_service(wanted.server)]
    for real, weight in wanted.weights.items():
        if real not in has.weights:
            messages.append(message.new_dest(place, RealServer(real, weight)))
        elif has.weights[real] != weight:
            messages.append(message.set_dest(place, RealServer(real, weight)))
    messages += [message.delete_dest(place, real) for real in has.weights if real not in wanted.weights]
    return messages
