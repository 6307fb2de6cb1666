# SPDX-License-Identifier: Apache-2.0
"""Listeners in words, for dry runs."""

from __future__ import annotations

from pointsman_enforcer.dataplane.userspace.target import format_place, parse_listener, parse_target


def describe_serve(key: bytes, packed: bytes) -> str:
    """What is served where."""
    target = parse_target(packed)
    affinity = f", each client the same for {target.affinity_seconds} s" if target.affinity_seconds else ""
    endpoints = ", ".join(format_place(each.address, each.port) for each in target.endpoints)
    return f"# listen {_listener(key)} for {endpoints}{affinity}"


def describe_close(key: bytes) -> str:
    """Where nothing is served any more."""
    return f"# close {_listener(key)}"


def _listener(key: bytes) -> str:
    listener = parse_listener(key)
    return f"{listener.protocol.name.lower()} {format_place(listener.address, listener.port)}"
