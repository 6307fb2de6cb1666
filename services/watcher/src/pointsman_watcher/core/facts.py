# SPDX-License-Identifier: Apache-2.0
"""Reading single values (ports, protocols, addresses, prefixes, times) with a report instead of an exception."""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final

from pointsman_model.names import Prefix, Protocol, parse_address, parse_prefix
from pointsman_watcher.core.problems import Problem, Problems, quote

PORT_MAX: Final = 65535
_PROTOCOLS: Final[Mapping[str, Protocol]] = MappingProxyType({protocol.name: protocol for protocol in Protocol})
_FRACTION: Final = re.compile(r"\.(\d{1,9})(?=[Zz+-])")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_END_NS: Final = 253_402_300_800 * 10**9
"""The end of the year 9999 in UTC: the last time that a protobuf Timestamp can carry."""


def read_protocol(text: str | None, field: str, problems: Problems) -> Protocol | None:
    """The protocol, TCP when the API has none; None after a report for any other."""
    if text is None or text == "":
        return Protocol.TCP
    protocol = _PROTOCOLS.get(text)
    if protocol is None:
        problems.append(Problem(field, f"{quote(text)} is not TCP, UDP or SCTP; the port is ignored"))
    return protocol


def is_port(number: int | None) -> bool:
    """Whether this is a port number, 1..65535."""
    return number is not None and 1 <= number <= PORT_MAX


def read_optional_port(number: int | None, field: str, problems: Problems) -> int:
    """A port where 0 or absence means none; 0 after a report when it is out of range."""
    if not number:
        return 0
    if is_port(number):
        return number
    problems.append(Problem(field, f"{quote(number)} is not a port number; it is ignored"))
    return 0


def read_address(text: str, field: str, problems: Problems) -> bytes | None:
    """The packed address; None after a report."""
    try:
        return parse_address(text)
    except ValueError as error:
        problems.append(Problem(field, f"{error}; it is ignored"))
        return None


def read_addresses(texts: Iterable[str] | None, field: str, problems: Problems) -> tuple[bytes, ...]:
    """The packed addresses in order, each once; malformed ones are reported and left out."""
    found: dict[bytes, None] = {}
    for index, text in enumerate(texts or ()):
        address = read_address(text, f"{field}[{index}]", problems)
        if address is not None:
            found[address] = None
    return tuple(found)


def read_prefixes(texts: Iterable[str] | None, field: str, problems: Problems) -> tuple[Prefix, ...]:
    """The CIDR blocks in order; malformed ones are reported and left out."""
    found: list[Prefix] = []
    for index, text in enumerate(texts or ()):
        try:
            found.append(parse_prefix(text))
        except ValueError as error:
            problems.append(Problem(f"{field}[{index}]", f"{error}; it is ignored"))
    return tuple(found)


def read_time_ns(text: str, field: str, problems: Problems) -> int:
    """RFC 3339 with up to nine decimals, within 1970 to 9999 UTC, as nanoseconds since 1970; 0 after a report."""
    fraction = _FRACTION.search(text)
    try:
        whole = datetime.fromisoformat(_FRACTION.sub("", text, count=1) if fraction else text)
        if whole.tzinfo is None:
            raise ValueError
        nanoseconds = (whole - _EPOCH) // _MICROSECOND * 1000
        if not 0 <= nanoseconds < _END_NS:
            raise ValueError
    except (ValueError, OverflowError):
        problems.append(Problem(field, f"{quote(text)} is not a time such as 2006-01-02T15:04:05.999Z; it is ignored"))
        return 0
    return nanoseconds + (int(fraction[1].ljust(9, "0")) if fraction else 0)


def sorted_items(mapping: Mapping[str, str] | None, prefix: str = "") -> tuple[tuple[str, str], ...]:
    """The pairs whose key begins with `prefix`, sorted by key."""
    return tuple(sorted(item for item in (mapping or {}).items() if item[0].startswith(prefix)))
