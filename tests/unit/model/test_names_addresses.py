# SPDX-License-Identifier: Apache-2.0
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman_model.names import (
    Family,
    Protocol,
    ServiceKey,
    ServicePortName,
    family_of,
    format_address,
    is_loopback,
    parse_address,
)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("0.0.0.1", "0.0.0.1"),
        ("255.255.255.255", "255.255.255.255"),
        ("172.30.0.041", "172.30.0.41"),
        ("010.000.000.008", "10.0.0.8"),
        ("0000000000000010.0.0.1", "10.0.0.1"),
        ("::", "::"),
        ("::1", "::1"),
        ("FD00:10:96::D0FE", "fd00:10:96::d0fe"),
        ("2001:0db8:0000:0000:0000:0000:0000:0001", "2001:db8::1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::ffff:010.0.0.041", "10.0.0.41"),
        ("::FFFF:0a00:0001", "10.0.0.1"),
        ("0:0:0:0:0:ffff:10.0.0.1", "10.0.0.1"),
        ("64:ff9b::10.0.0.1", "64:ff9b::a00:1"),
        ("::10.0.0.1", "::a00:1"),
    ],
)
def test_every_form_the_api_accepts_has_one_canonical_form(text: str, canonical: str) -> None:
    assert format_address(parse_address(text)) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "10.0.0", "10.0.0.1.2", "10.0.0.256", "10.0.0.-1", "10.0.0.1 ", " 10.0.0.1", "10.0.0.1\n", "10..0.1",
        "10.0.0.1/32", "0x0a.0.0.1", "10.0.0.1e0", "१०.0.0.1", "10.0.0.²", "00000000000000010.0.0.1", "fe80::1%eth0",
        "::1%", "10.0.0.1%eth0", "1::2::3", ":::", "12345::", "00001::", "::ffff:10.0.0.256", "::ffff:10.0.0",
        "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7:1.2.3.4", "example.com", "None", "[::1]", "::1/128", ":10.0.0.1", "a:b",
        "::\x00", "\ud800", "9" * 100_000, ":" * 100_000,
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_a_short_message_that_quotes_it(text: str) -> None:
    with pytest.raises(ValueError, match="is not an IP address") as caught:
        parse_address(text)
    assert len(str(caught.value)) < 500


@given(st.ip_addresses(v=4))
def test_ipv4_round_trips(address: ipaddress.IPv4Address) -> None:
    assert parse_address(str(address)) == address.packed
    assert format_address(address.packed) == str(address)


@given(st.ip_addresses(v=6))
def test_ipv6_round_trips_except_mapped_which_becomes_ipv4(address: ipaddress.IPv6Address) -> None:
    expected = address.ipv4_mapped.packed if address.ipv4_mapped else address.packed
    for text in (str(address), address.exploded, str(address).upper()):
        assert parse_address(text) == expected


@given(st.lists(st.integers(0, 255), min_size=4, max_size=4), st.lists(st.integers(0, 8), min_size=4, max_size=4))
def test_leading_zeros_never_mean_octal(octets: list[int], zeros: list[int]) -> None:
    text = ".".join("0" * count + str(octet) for octet, count in zip(octets, zeros, strict=True))
    assert parse_address(text) == bytes(octets)


@given(st.text())
def test_arbitrary_text_is_parsed_or_refused_but_never_breaks(text: str) -> None:
    try:
        packed = parse_address(text)
    except ValueError:
        return
    assert parse_address(format_address(packed)) == packed


def test_the_family_follows_from_the_length_alone() -> None:
    assert family_of(bytes(4)) is Family.IPV4
    assert family_of(bytes(16)) is Family.IPV6
    assert [family.address_bits for family in Family] == [32, 128]
    for length in (0, 3, 5, 15, 17):
        with pytest.raises(ValueError, match=f"this one has {length}"):
            family_of(bytes(length))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("127.0.0.1", True), ("127.255.255.255", True), ("128.0.0.1", False), ("::1", True), ("::2", False),
     ("::ffff:127.0.0.1", True), ("::", False)],
)  # fmt: skip
def test_loopback_is_127_slash_8_and_one_ipv6_address(text: str, expected: bool) -> None:
    assert is_loopback(parse_address(text)) is expected


def test_a_service_port_prints_as_kube_proxy_prints_it() -> None:
    key = ServiceKey("shop", "web")
    assert str(ServicePortName(key, "http", Protocol.TCP)) == "shop/web:http/TCP"
    assert str(ServicePortName(key, "", Protocol.SCTP)) == "shop/web/SCTP"
