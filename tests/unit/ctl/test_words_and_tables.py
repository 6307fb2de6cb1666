# SPDX-License-Identifier: Apache-2.0
"""What people write on the command line, and the columns that they read."""

import ipaddress

import pytest

from pointsman.types.v1.types_pb2 import Protocol
from pointsman_ctl.core.table import Column, render_table
from pointsman_ctl.core.words import age_text, destination, service_name

COLUMNS: tuple[Column[tuple[str, str, str]], ...] = (
    Column(head="NAME", cell=lambda row: row[0]),
    Column(head="STATE", cell=lambda row: row[1], colour=lambda _: "green"),
    Column(head="NODE", cell=lambda row: row[2], is_wide=True),
)
ROWS = [("a", "Synced", "n1"), ("long-name", "", "n2"), ("evil\x1b[31m\n", "Stale", "n3")]


def test_columns_are_padded_and_what_is_missing_is_a_dash() -> None:
    assert render_table(ROWS, COLUMNS) == [
        "NAME         STATE",
        "a            Synced",
        "long-name    -",
        "evil?[31m?   Stale",
    ]


def test_wide_columns_heads_and_colours_are_a_choice() -> None:
    assert render_table(ROWS[:1], COLUMNS, is_wide=True, heads=False) == ["a   Synced   n1"]
    assert render_table(ROWS[:1], COLUMNS, heads=False, colours=True) == ["a   \x1b[32mSynced\x1b[0m"]
    assert render_table([], COLUMNS) == ["NAME   STATE"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0s"), (119, "119s"), (120, "2m"), (200, "3m20s"), (3600, "60m"), (18180, "5h3m"), (90000, "25h")],
)  # fmt: skip
def test_ages_are_those_of_kubectl(seconds: float, text: str) -> None:
    assert age_text(seconds) == text


@pytest.mark.parametrize(
    ("text", "namespace", "name"),
    [
        ("web", "default", "web"),
        ("shop/web", "shop", "web"),
        ("svc/web", "default", "web"),
        ("svc/shop/web", "shop", "web"),
        ("service/web", "default", "web"),
    ],
)
def test_services_are_named_in_several_ways(text: str, namespace: str, name: str) -> None:
    found = service_name(text, "default")
    assert (found.namespace, found.name) == (namespace, name)


@pytest.mark.parametrize("text", ["", "/", "a/", "a/b/c", "svc/", "we b", "-web"])
def test_what_is_no_service_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no Service"):
        service_name(text, "default")


@pytest.mark.parametrize(
    ("text", "address", "port", "protocol"),
    [
        ("10.96.0.1:80", "10.96.0.1", 80, "TCP"),
        ("10.96.0.1:53/udp", "10.96.0.1", 53, "UDP"),
        ("[fd00::1]:443/SCTP", "fd00::1", 443, "SCTP"),
        ("[::ffff:10.96.0.1]:80", "10.96.0.1", 80, "TCP"),
    ],
)
def test_destinations_have_address_port_and_protocol(text: str, address: str, port: int, protocol: str) -> None:
    found = destination(text)
    assert (str(ipaddress.ip_address(found.address)), found.port) == (address, port)
    assert Protocol.Name(found.protocol) == f"PROTOCOL_{protocol}"


@pytest.mark.parametrize(
    "text", ["10.96.0.1", "10.96.0.1:0", "10.96.0.1:65536", "10.96.0.1:80/ICMP", "web:80", ":80", "/"]
)
def test_what_is_no_destination_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no destination|is no IP address"):
        destination(text)
