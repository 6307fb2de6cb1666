# SPDX-License-Identifier: Apache-2.0
"""The catalogue's addresses, and how a row becomes its twin of the other family.

Rows are written in IPv4, as packet-flow.md is. `twin_row` translates every address and prefix of one by a fixed rule,
IPv4 to IPv6 and back, so a dual-stack row keeps both halves, exchanged. The rule keeps the decimal digits readable:

    pods      10.A.B.C     <-> fd00:10::A:B:C         cluster CIDR  10.0.0.0/8     <-> fd00:10::/64
    services  172.30.A.B   <-> fd00:10:96::(A*1000+B) service CIDR  172.30.0.0/16  <-> fd00:10:96::/112
    others    A.B.C.D      <-> 2001:db8:A:B:C::D      except the node's primary address and the prefixes in `_PAIRS`
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from conformance.model import (
    CATALOGUE_NODE_ADDRESSES,
    Event,
    Expectation,
    IpFamily,
    NodeSettings,
    Probe,
    Row,
    Step,
    Target,
)

PRIMARY = "192.168.0.2"
SECONDARY = "192.168.1.2"
EXTERNAL_IP = "192.168.99.11"
POD = "10.0.0.2"
CLIENT = "203.0.113.2"
BLOCKED_CLIENT = "203.0.113.130"
FOREIGN = "203.0.113.9"
"""An address beyond the node that nobody but its owner answers for."""
NODE_ADDRESSES = CATALOGUE_NODE_ADDRESSES
POD_CIDRS = ("10.0.0.0/8", "fd00:10::/64")
SERVICE_CIDRS = ("172.30.0.0/16", "fd00:10:96::/112")

_PAIRS = {
    PRIMARY: "2001:db8::1",
    SECONDARY: "2001:db8:1::2",
    "127.0.0.1": "::1",
    "0.0.0.0/0": "::/0",
    "10.0.0.0/8": "fd00:10::/64",
    "172.30.0.0/16": "fd00:10:96::/112",
    "192.168.0.0/24": "2001:db8::/64",
    "192.168.1.0/24": "2001:db8:1::/64",
    "172.31.0.0/16": "2001:db8:172:31::/64",
    "10.180.0.0/24": "fd00:10::180:0:0/112",
    "203.0.113.0/25": "2001:db8:203::/112",
    "203.0.113.2": "2001:db8:203::2",
    "203.0.113.130": "2001:db8:203::1:130",
}
_REVERSE = {six: four for four, six in _PAIRS.items()}
_LOOKS_LIKE_ADDRESS = re.compile(r"\s*[0-9a-fA-F.:]+(/[0-9]+)?\s*")


def twin_address(text: str) -> str:
    """The same address or prefix in the other family; ValueError when the rule does not cover it."""
    text = text.strip()
    if text in _PAIRS:
        return _PAIRS[text]
    if text in _REVERSE:
        return _REVERSE[text]
    base, slash, length = text.partition("/")
    if slash:
        bits = ipaddress.ip_address(base).max_prefixlen
        if length != str(bits):
            raise ValueError(f"no rule for the twin of prefix {text}")
        return f"{twin_address(base)}/{160 - bits}"
    return _to_ipv6(base) if "." in base else _to_ipv4(base)


def _to_ipv6(text: str) -> str:
    a, b, c, d = text.split(".")
    if a == "10":
        return str(ipaddress.IPv6Address(f"fd00:10::{b}:{c}:{d}"))
    if (a, b) == ("172", "30"):
        return f"fd00:10:96::{int(c) * 1000 + int(d)}"
    return str(ipaddress.IPv6Address(f"2001:db8:{a}:{b}:{c}::{d}"))


def _to_ipv4(text: str) -> str:
    groups = [group.lstrip("0") or "0" for group in ipaddress.IPv6Address(text).exploded.split(":")]
    if groups[:5] == ["fd00", "10", "0", "0", "0"]:
        return ".".join(["10", *groups[5:]])
    if groups[:3] == ["fd00", "10", "96"]:
        number = int(groups[7])
        return f"172.30.{number // 1000}.{number % 1000}"
    if groups[:2] == ["2001", "db8"]:
        return ".".join([*groups[2:5], groups[7]])
    raise ValueError(f"no rule for the twin of {text}")


def twin_row(row: Row) -> Row:
    """The row with every address in the other family."""
    family = IpFamily.IPV6 if row.family is IpFamily.IPV4 else IpFamily.IPV4
    return replace(
        row,
        family=family,
        steps=tuple(_twin_step(step) for step in row.steps),
        extra_node_addresses=tuple(twin_address(address) for address in row.extra_node_addresses),
        settings=twin_settings(row.settings),
    )


def events_in(family: IpFamily, events: Iterable[Event]) -> tuple[Event, ...]:
    """Events written in IPv4 as they are in a family."""
    return tuple(_twin_event(event) if family is IpFamily.IPV6 else event for event in events)


def address_in(family: IpFamily, address: str) -> str:
    """An address written in IPv4 as it is in a family."""
    return twin_address(address) if family is IpFamily.IPV6 else address


def twin_settings(settings: NodeSettings) -> NodeSettings:
    """The settings with every CIDR in the other family."""
    cidrs = settings.node_port_addresses
    if cidrs != ("primary",):
        cidrs = tuple(sorted((twin_address(cidr) for cidr in cidrs), key=lambda cidr: ":" in cidr))
    clusters = tuple(sorted((twin_address(cidr) for cidr in settings.cluster_cidrs), key=lambda cidr: ":" in cidr))
    return replace(settings, node_port_addresses=cidrs, cluster_cidrs=clusters)


def _twin_step(step: Step) -> Step:
    return replace(
        step,
        events=tuple(map(_twin_event, step.events)),
        probes=tuple(map(_twin_probe, step.probes)),
        steady=tuple(map(_twin_probe, step.steady)),
        held=tuple(map(_twin_probe, step.held)),
    )


def _twin_probe(probe: Probe) -> Probe:
    targets = (Target(twin_address(t.address), t.port, t.masquerade) for t in probe.expect.targets)
    expect = Expectation(probe.expect.outcome, tuple(sorted(targets)))
    return probe._replace(source=twin_address(probe.source), destination=twin_address(probe.destination), expect=expect)


def _twin_event(event: Event) -> Event:
    return Event(event.verb, _twin_manifest(event.manifest))


def _twin_manifest(manifest: str) -> str:
    return json.dumps(_twin_value(json.loads(manifest)), separators=(",", ":"))


def _twin_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _twin_value(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_twin_value(item) for item in value]
    if value in ("IPv4", "IPv6"):
        return "IPv6" if value == "IPv4" else "IPv4"
    if isinstance(value, str) and _LOOKS_LIKE_ADDRESS.fullmatch(value) and _is_address(value):
        leading = value[: len(value) - len(value.lstrip())]
        return leading + twin_address(value)
    return value


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_interface(text.strip())
    except ValueError:
        return False
    return True
