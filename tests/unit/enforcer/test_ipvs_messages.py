# SPDX-License-Identifier: Apache-2.0
"""IPVS's messages are what the kernel's header says, and what is written is what is read."""

from __future__ import annotations

import struct

import pytest

from pointsman_enforcer.dataplane.ipvs.genetlink import message
from pointsman_enforcer.dataplane.ipvs.genetlink.model import (
    RealServer,
    RealServerId,
    ServiceFlags,
    Timeouts,
    VirtualServer,
    VirtualServerId,
)
from pointsman_model.names import Family, Protocol

_V4 = VirtualServerId(Family.IPV4, 0, Protocol.TCP, bytes((10, 96, 0, 1)), 80)
_V6 = VirtualServerId(Family.IPV6, 0, Protocol.SCTP, bytes(15) + b"\1", 9)


@pytest.mark.parametrize(
    "server",
    [
        VirtualServer(id=_V4),
        VirtualServer(id=_V4, scheduler="mh", flags=ServiceFlags.MH_FALLBACK | ServiceFlags.MH_PORT),
        VirtualServer(id=_V6, scheduler="sh", flags=ServiceFlags.PERSISTENT, timeout_seconds=60, prefix_bits=64),
        VirtualServer(id=_V4, flags=ServiceFlags.PERSISTENT, timeout_seconds=60, prefix_bits=24),
        VirtualServer(id=VirtualServerId(Family.IPV6, 0x80000001)),
    ],
)
def test_a_virtual_server_is_read_as_it_was_written(server: VirtualServer) -> None:
    assert message.read_service(message.new_service(server).payload) == server
    assert message.read_service(message.set_service(server).payload) == server


def test_the_first_bytes_are_command_and_version_and_numbers_are_of_the_machine() -> None:
    payload = message.new_service(VirtualServer(id=VirtualServerId(Family.IPV4, 77))).payload
    assert payload[:4] == bytes((1, 1, 0, 0))
    assert struct.pack("=HHI", 8, 5, 77) in payload
    assert struct.pack("=HH", 7, 6) + b"rr\0" in payload


def test_the_kernels_own_flag_and_foreign_protocols_are_not_shown() -> None:
    payload = message.new_service(VirtualServer(id=_V4)).payload
    hashed = payload.replace(struct.pack("=HHII", 12, 7, 0, 0x1D), struct.pack("=HHII", 12, 7, 2, 0xFFFFFFFF))
    assert hashed != payload
    assert message.read_service(hashed) == VirtualServer(id=_V4)
    assert message.read_service(payload.replace(struct.pack("=HHH", 6, 2, 6), struct.pack("=HHH", 6, 2, 51))) is None


def test_a_real_server_has_weight_thresholds_and_its_own_family() -> None:
    real = RealServer(RealServerId(bytes(15) + b"\2", 8080), 7, 100, 50)
    payload = message.new_dest(_V6, real).payload
    assert struct.pack("=HHI", 8, 4, 7) in payload
    assert struct.pack("=HHI", 8, 5, 100) + struct.pack("=HHI", 8, 6, 50) in payload
    assert struct.pack("=HH", 6, 2) + (8080).to_bytes(2, "big") in payload
    assert struct.pack("=HHH", 6, 11, 10) in payload


def test_timeouts_and_version_are_read() -> None:
    assert message.read_timeouts(message.set_timeouts(Timeouts(900, 0, 300)).payload) == Timeouts(900, 0, 300)
    info = message.genl_payload(15, struct.pack("=HHIHHI", 8, 1, 0x010201, 8, 2, 4096))
    assert message.read_info(info) == ((1, 2, 1), 4096)


def test_answers_that_contradict_themselves_are_an_error() -> None:
    datagram = struct.pack("=IHHIIi", 20, 2, 0, 7, 0, -17)
    assert list(message.answers(datagram)) == [(2, 0, 7, struct.pack("=i", -17))]
    with pytest.raises(ValueError, match="claims 40"):
        list(message.answers(struct.pack("=IHHII", 40, 2, 0, 7, 0)))


def test_messages_are_named_for_people() -> None:
    assert message.delete_dest(_V6, RealServerId(bytes(15) + b"\2", 1)).what == "remove [::2]:1 from SCTP [::1]:9"
    assert message.new_service(VirtualServer(id=VirtualServerId(Family.IPV6, 5))).what == "add FWM 5 IPv6"
