# SPDX-License-Identifier: Apache-2.0
"""Remembered clients on the wire: what is sent comes back, and what could be no client is left out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman_model.names import Protocol, ServiceKey, ServicePortName
from pointsman_model.remembered import ClientKey, RememberedClient
from pointsman_model.wire.remembered import (
    ENTRIES_MAX,
    ENTRIES_SENT_MAX,
    LEFT_MS_MAX,
    memories_to_pb,
    memory_from_pb,
    memory_to_pb,
)

names = st.text("abc-", min_size=1, max_size=8)


@st.composite
def clients(draw: st.DrawFn) -> RememberedClient:
    size = draw(st.sampled_from((4, 16)))
    address = st.binary(min_size=size, max_size=size)
    port = ServicePortName(
        ServiceKey(draw(names), draw(names)), draw(names | st.just("")), draw(st.sampled_from(list(Protocol)))
    )
    endpoint = draw(address), draw(st.integers(1, 65535))
    return RememberedClient(ClientKey(port, draw(address)), endpoint, draw(st.integers(1, LEFT_MS_MAX)))


@given(st.lists(clients()))
def test_what_is_sent_comes_back(sent: list[RememberedClient]) -> None:
    assert memory_from_pb(pb.AffinityMemory.FromString(memory_to_pb(sent).SerializeToString())) == sent


def entry(**changes: object) -> pb.AffinityEntry:
    key = ClientKey(ServicePortName(ServiceKey("default", "web"), "http", Protocol.TCP), b"\x0a\0\0\x01")
    made = memory_to_pb([RememberedClient(key, (b"\x0a\x01\0\x01", 8080), 5_000)]).entries[0]
    for field, value in changes.items():
        if field == "seconds":
            made.remaining.seconds = value  # type: ignore[assignment]  # a number
        elif field == "namespace":
            made.service.namespace = value  # type: ignore[assignment]  # a text
        else:
            setattr(made, field, value)
    return made


def test_an_entry_that_could_be_no_client_is_left_out_and_the_others_count() -> None:
    bad = [
        entry(protocol=0),
        entry(protocol=1),
        entry(client=b""),
        entry(client=b"\0" * 16),
        entry(endpoint_address=b"123"),
        entry(endpoint_port=0),
        entry(endpoint_port=65536),
        entry(seconds=0),
        entry(seconds=-1),
        entry(namespace=""),
        entry(namespace="a\0b"),
        entry(port_name="x" * 64),
        pb.AffinityEntry(),
    ]
    assert len(memory_from_pb(pb.AffinityMemory(entries=[*bad, entry(), *bad, entry(seconds=1)]))) == 2


def test_nobody_is_remembered_for_longer_than_the_longest_timeout() -> None:
    (found,) = memory_from_pb(pb.AffinityMemory(entries=[entry(seconds=10**9)]))
    assert found.left_ms == LEFT_MS_MAX


def test_no_more_than_ten_thousand_are_read() -> None:
    assert len(memory_from_pb(pb.AffinityMemory(entries=[entry()] * (ENTRIES_MAX + 1)))) == ENTRIES_MAX


def test_messages_with_the_longest_names_stay_below_one_mebibyte() -> None:
    port = ServicePortName(ServiceKey("n" * 253, "s" * 253), "p" * 63, Protocol.SCTP)
    longest = RememberedClient(ClientKey(port, b"\xff" * 16), (b"\xff" * 16, 65535), LEFT_MS_MAX - 1)
    messages = list(memories_to_pb([longest] * (2 * ENTRIES_SENT_MAX + 1)))
    assert [len(message.entries) for message in messages] == [ENTRIES_SENT_MAX, ENTRIES_SENT_MAX, 1]
    assert max(message.ByteSize() for message in messages) < 1 << 20
