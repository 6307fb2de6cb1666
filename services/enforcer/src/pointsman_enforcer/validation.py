# SPDX-License-Identifier: Apache-2.0
"""What a configuration may say, by kube-proxy's rules; shared by our own configuration and by the converter of theirs.

Each function yields problems, each of which begins with the path of the field, and nothing when all is well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from pointsman_chassis.tls import is_local
from pointsman_enforcer.core.candidates import is_address
from pointsman_enforcer.dataplane.node_settings import DetectLocalMode
from pointsman_enforcer.health.bind_address import parse_bind_address
from pointsman_model.names import Prefix, parse_address, parse_prefix

PRIMARY: Final = "primary"
_INTERFACE_FIELDS: Final = {
    DetectLocalMode.BRIDGE_INTERFACE: "bridgeInterface",
    DetectLocalMode.INTERFACE_NAME_PREFIX: "interfaceNamePrefix",
}
_INTERFACE_CHARACTERS_MAX: Final = 15
DNS: Final = "dns:"
"""Prefix of a planner address that stands for all addresses behind a name."""
_SCHEDULER_CHARACTERS_MAX: Final = 15
_OBJECT_NAME_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-.")


def plaintext_problems(addresses: Sequence[str]) -> Iterator[str]:
    """`plannerAddresses` that plaintext would leave the machine for."""
    for index, address in enumerate(addresses):
        if not is_local(address):
            yield (
                f"plannerAddresses[{index}]: {address} is not on loopback, and security.insecure is for nothing else; "
                "give certFile, keyFile and caFile, or tokenFile and caFile"
            )


def split_cidrs(text: str) -> list[str]:
    """The parts of a list separated by commas."""
    return [part for part in (piece.strip() for piece in text.split(",")) if part]


def cluster_cidr_problems(text: str) -> Iterator[str]:
    """`clusterCIDR`: at most one block for each family."""
    found: list[Prefix] = []
    for part in split_cidrs(text):
        try:
            found.append(parse_prefix(part))
        except ValueError as error:
            yield f"clusterCIDR: {error}"
    if len(found) > len({prefix.family for prefix in found}):
        yield "clusterCIDR: give at most one block for each family"


def node_port_addresses_problems(texts: Sequence[str]) -> Iterator[str]:
    """`nodePortAddresses`: blocks, or the word `primary` alone."""
    if PRIMARY in texts and len(texts) > 1:
        yield "nodePortAddresses: primary must be the only entry"
    yield from block_problems("nodePortAddresses", [text if text != PRIMARY else "0.0.0.0/0" for text in texts])


def block_problems(name: str, texts: Sequence[str]) -> Iterator[str]:
    """A list of CIDR blocks."""
    for index, text in enumerate(texts):
        try:
            parse_prefix(text)
        except ValueError as error:
            yield f"{name}[{index}]: {error}"


def detect_local_problems(mode: DetectLocalMode, *, bridge_interface: str, interface_name_prefix: str) -> Iterator[str]:
    """`detectLocal`: the field that the mode needs."""
    names = {
        DetectLocalMode.BRIDGE_INTERFACE: bridge_interface,
        DetectLocalMode.INTERFACE_NAME_PREFIX: interface_name_prefix,
    }
    if mode in names and not _is_interface(names[mode]):
        yield (
            f"detectLocal.{_INTERFACE_FIELDS[mode]}: {mode.value} needs the name of an interface, 1 to "
            f"{_INTERFACE_CHARACTERS_MAX} characters without space, quote, '/', ':' and '*'"
        )


def _is_interface(name: str) -> bool:
    is_short = 0 < len(name) <= _INTERFACE_CHARACTERS_MAX
    return is_short and name.isascii() and name.isprintable() and not any(mark in name for mark in ' /:*"')


def bind_address_problems(name: str, text: str, default_port: int) -> Iterator[str]:
    """An address to listen on, with or without a port; empty is allowed."""
    try:
        address = parse_bind_address(text, default_port, name)
    except ValueError as error:
        yield str(error)
    else:
        if address is not None and address.port == 0:
            yield f"{name}: port 0 is not within 1..65535"


def address_problems(name: str, text: str) -> Iterator[str]:
    """An IP address."""
    try:
        parse_address(text)
    except ValueError as error:
        yield f"{name}: {error}"


def sync_period_problems(sync_period: float, min_sync_period: float) -> Iterator[str]:
    """`syncPeriod` and `minSyncPeriod` of one section."""
    if sync_period <= 0:
        yield "syncPeriod: must be greater than 0s"
    elif min_sync_period > sync_period:
        yield "minSyncPeriod: must not be greater than syncPeriod"


def scheduler_problems(name: str, text: str) -> Iterator[str]:
    """The name of an IPVS scheduler; whether this kernel has it, `pointsman-enforcer probe` says."""
    is_name = len(text) <= _SCHEDULER_CHARACTERS_MAX and text.isascii() and text.replace("_", "").isalnum()
    if text and not is_name:
        yield f"{name}: {text!r} is not the name of a scheduler, rr for example"


def ipvs_timeout_problems(name: str, seconds: float) -> Iterator[str]:
    """A timeout of IPVS, which the kernel counts in whole seconds."""
    if seconds < 0 or 0 < seconds < 1:
        yield f"{name}: must be 0s, or at least 1s"


def not_negative_problems(name: str, seconds: float) -> Iterator[str]:
    """A duration that may be 0s."""
    if seconds < 0:
        yield f"{name}: must not be negative"


def place_problems(name: str, key: str, value: str) -> Iterator[str]:
    """One entry of a map from addresses (or nothing) to local addresses of the same family."""
    try:
        there, here = parse_address(key) if key else b"", parse_address(value)
    except ValueError as error:
        yield f"{name}[{key}]: {error}"
    else:
        if there and len(there) != len(here):
            yield f"{name}[{key}]: {value} is of the other family"


def range_problems(name: str, value: int, low: int, high: int) -> Iterator[str]:
    """An integer within bounds."""
    if not low <= value <= high:
        yield f"{name}: {value} is not within {low}..{high}"


def planner_address_problems(texts: Sequence[str]) -> Iterator[str]:
    """`plannerAddresses`: `host:port`, `[v6]:port` or `dns:host:port`."""
    for index, text in enumerate(texts):
        if not is_address(text.removeprefix(DNS)):
            yield f"plannerAddresses[{index}]: {text!r} is not host:port, [address]:port or dns:host:port"


def api_server_problems(texts: Sequence[str]) -> Iterator[str]:
    """`apiServers`: `host:port`, with or without `https://` in front."""
    for index, text in enumerate(texts):
        if not is_address(text.removeprefix("https://").rstrip("/")):
            yield f"apiServers[{index}]: {text!r} is not host:port"


def object_name_problems(name: str, text: str) -> Iterator[str]:
    """The name of a Kubernetes object."""
    if not (0 < len(text) <= 253 and set(text) <= _OBJECT_NAME_CHARACTERS):
        yield f"{name}: {text!r} is not the name of an object"
