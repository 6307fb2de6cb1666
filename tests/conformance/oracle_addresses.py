# SPDX-License-Identifier: Apache-2.0
"""Addresses as old objects carry them (A16): zeros in front mean nothing, nor do spaces; IPv4-mapped IPv6 is IPv4."""

from __future__ import annotations

import ipaddress
from functools import cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@cache
def parse_address(text: str) -> Address | None:
    """The address, None when it is none."""
    try:
        address = ipaddress.ip_address(_without_zeros(text.strip()))
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


@cache
def parse_network(text: str) -> Network | None:
    """The block, None when it is none."""
    base, _, length = text.strip().partition("/")
    try:
        return ipaddress.ip_network(f"{_without_zeros(base)}/{int(length)}", strict=False)
    except ValueError:
        return None


def _without_zeros(text: str) -> str:
    if ":" in text:
        return text
    return ".".join(part.lstrip("0") or "0" if part else part for part in text.split("."))
