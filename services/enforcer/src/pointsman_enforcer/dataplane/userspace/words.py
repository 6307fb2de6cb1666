# SPDX-License-Identifier: Apache-2.0
"""Listeners in words, for dry runs."""

from __future__ import annotations

from pointsman_enforcer.dataplane.userspace.target import parse_listener, parse_target
from pointsman_model.names import format_address


def describe_serve(key: bytes, packed: bytes) -> str:
    """What is served where."""
    target = parse_target(packed)
    affinity = f", each client the same for {target.affinity_seconds} s" if target.affinity_seconds else ""
    endpoints = ", ".join(_place(each.address, each.port) for each in target.endpoints)
    return f"# listen {_listener(key)} for {endpoints}{affinity}"


def describe_close(key: bytes) -> str:
    """Where nothing is served any more."""
    return f"# close {_listener(key)}"


def _listener(key: bytes) -> str:
    listener = parse_listener(key)
    return f"{listener.protocol.name.lower()} {_place(listener.address, listener.port)}"


def _place(address: bytes, port: int) -> str:
    text = format_address(address)
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"
