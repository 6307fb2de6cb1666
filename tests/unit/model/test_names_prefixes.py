# SPDX-License-Identifier: Apache-2.0
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman_model.names import Prefix, make_prefix, parse_address, parse_prefix


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("203.0.113.000/025", "203.0.113.0/25"),
        ("  192.168.7.0/24 ", "192.168.7.0/24"),
        ("\t10.0.0.0/8\n", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("1.2.3.4/0", "0.0.0.0/0"),
        ("10.0.0.1/32", "10.0.0.1/32"),
        ("::/0", "::/0"),
        ("fd00:10:96::1/112", "fd00:10:96::/112"),
        ("FD00::1/128", "fd00::1/128"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.1.2.3/128", "10.1.2.3/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
    ],
)
def test_blocks_are_canonical_with_host_bits_cleared(text: str, canonical: str) -> None:
    assert str(parse_prefix(text)) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "", "/", "10.0.0.0", "10.0.0.0/", "/8", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/+8", "10.0.0.0/8/8",
        "10.0.0.0/ 8", "10.0.0.0 /8", "10.0.0.0/8.0", "10.0.0/8", "10.0.0.0/255.0.0.0", "::/129", "::/-1", "::1%lo/128",
        "::ffff:10.0.0.0/95", "::ffff:10.0.0.0/8", "10.0.0.0/९", "10.0.0.0/" + "9" * 10_000, "any", "a/b", "\x00/0",
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_a_short_message(text: str) -> None:
    with pytest.raises(ValueError, match="is not a CIDR block") as caught:
        parse_prefix(text)
    assert len(str(caught.value)) < 200


ADDRESSES = st.ip_addresses().map(lambda address: address.packed)


@given(ADDRESSES, st.data())
def test_a_block_contains_exactly_the_addresses_that_share_its_bits(address: bytes, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, len(address) * 8))
    other = data.draw(st.binary(min_size=len(address), max_size=len(address)))
    prefix = make_prefix(address, length)
    network = ipaddress.ip_network((address, length), strict=False)
    assert prefix.address == network.network_address.packed
    assert prefix.contains(address)
    assert prefix.contains(other) == (ipaddress.ip_address(other) in network)


def test_a_block_never_contains_an_address_of_the_other_family() -> None:
    assert not parse_prefix("::/0").contains(parse_address("10.0.0.1"))
    assert not parse_prefix("0.0.0.0/0").contains(parse_address("2001:db8::1"))


@given(ADDRESSES, st.integers())
def test_a_length_outside_the_family_is_refused(address: bytes, length: int) -> None:
    if 0 <= length <= len(address) * 8:
        assert make_prefix(address, length).length == length
    else:
        with pytest.raises(ValueError, match="is not within"):
            make_prefix(address, length)


@given(ADDRESSES, st.data())
def test_the_text_of_a_block_parses_to_the_block(address: bytes, data: st.DataObject) -> None:
    prefix = make_prefix(address, data.draw(st.integers(0, len(address) * 8)))
    if prefix.address.startswith(bytes(10) + b"\xff\xff") and len(prefix.address) == 16:
        return  # an IPv4-mapped block is written as IPv4
    assert parse_prefix(str(prefix)) == prefix


def test_the_block_knows_its_family() -> None:
    assert [Prefix(bytes(4), 0).family, Prefix(bytes(16), 0).family] == [4, 6]
