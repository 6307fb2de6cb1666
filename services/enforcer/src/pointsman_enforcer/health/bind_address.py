# SPDX-License-Identifier: Apache-2.0
"""Addresses to listen on, as operators write them."""

from __future__ import annotations

from typing import NamedTuple

from pointsman_model.names import parse_address


class BindAddress(NamedTuple):
    """Host and port to listen on."""

    host: str
    port: int


def parse_bind_address(text: str, default_port: int, name: str) -> BindAddress | None:
    """`1.2.3.4:80`, `[::]:80`, or an address alone with the default port; None for an empty text.

    Raises:
        ValueError: anything else; begins with `name`.
    """
    if not text:
        return None
    host, port = text, ""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        parse_address(host)
        number = int(port) if port else default_port
    except ValueError as error:
        raise ValueError(f"{name}: expected address:port such as 0.0.0.0:{default_port}, got {text!r}") from error
    if not 0 <= number <= 65535:
        raise ValueError(f"{name}: port {number} is not within 0..65535")
    return BindAddress(host, number)
