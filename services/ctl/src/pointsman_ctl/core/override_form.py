# SPDX-License-Identifier: Apache-2.0
"""Overrides from the words of the command line and from files, and as rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from pointsman.control.v1 import override_service_pb2 as pb
from pointsman.types.v1.types_pb2 import Protocol
from pointsman_ctl.core.plain import address_text, endpoint_text, fill, plain
from pointsman_ctl.core.table import Column
from pointsman_ctl.core.words import address, age_text

_SELECTORS: Final[Mapping[str, str]] = MappingProxyType(
    {"node": "node_name", "pod": "target_name", "pod-prefix": "target_name_prefix"}
)
_SELECTOR_FORM: Final = "node=NAME, pod=NAME, pod-prefix=TEXT, address=IP or address=IP:PORT, joined by commas"


def selector(text: str) -> pb.EndpointSelector:
    """`node=node-7`, `address=10.1.0.1:8080`, `pod-prefix=web-canary-,node=node-7`.

    Raises:
        ValueError: it is none.
    """
    found = pb.EndpointSelector()
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or not value or key not in ("address", *_SELECTORS):
            raise ValueError(f"{text!r} selects no endpoints: write {_SELECTOR_FORM}")
        if key == "address":
            found.address, found.port = _address_and_port(value)
        else:
            setattr(found, _SELECTORS[key], value)
    return found


def registered_port(text: str) -> pb.RegisteredPort:
    """`8080`, `http:8080`, `dns:53/UDP`.

    Raises:
        ValueError: it is none.
    """
    where, _, protocol = text.partition("/")
    name, _, number = where.rpartition(":")
    try:
        kind = Protocol.Value(f"PROTOCOL_{(protocol or 'TCP').upper()}")
        return pb.RegisteredPort(name=name, port=int(number), protocol=kind)
    except ValueError as error:
        raise ValueError(f"{text!r} is no port: write PORT, NAME:PORT or NAME:PORT/UDP") from error


def registered_endpoint(text: str, zone_hints: Iterable[str]) -> pb.RegisteredEndpoint:
    """`10.9.0.1`, `10.9.0.1@node-7`.

    Raises:
        ValueError: it is none.
    """
    where, _, node = text.partition("@")
    return pb.RegisteredEndpoint(address=address(where), node_name=node, zone_hints=zone_hints)


def read_override(document: Any, source: str) -> pb.Override:
    """An override from plain data, in the form that `override get -o yaml` prints.

    Raises:
        ValueError: something is wrong; names every problem with its field.
    """
    made = pb.Override()
    problems = fill(made, document)
    if not problems and not made.name.name:
        problems.append("name: a value is required, NAMESPACE/NAME or NAME")
    if problems:
        raise ValueError(f"{source} is no override:" + "".join(f"\n  {problem}" for problem in problems))
    return made


def name_text(override: pb.Override) -> str:
    """`namespace/name`, or `name` when it is about all Services."""
    return str(plain(override.name))


def columns(now_seconds: float) -> tuple[Column[pb.Override], ...]:
    """The columns of a list; `now_seconds` since the epoch is what ages count from."""
    return (
        Column(head="NAME", cell=name_text),
        Column(head="KIND", cell=lambda found: found.spec.WhichOneof("kind")),
        Column(head="SERVICE", cell=lambda found: found.spec.service_name or "(all)"),
        Column(head="WHAT", cell=lambda found: what(found.spec)),
        Column(head="OWNER", cell=lambda found: found.owner),
        Column(head="AGE", cell=lambda found: age_text(now_seconds - found.create_time.seconds)),
        Column(
            head="EXPIRES",
            cell=lambda found: (
                "in " + age_text(found.expire_time.seconds - now_seconds) if found.HasField("expire_time") else "never"
            ),
        ),
        Column(head="ETAG", cell=lambda found: found.etag, is_wide=True),
        Column(head="REASON", cell=lambda found: found.spec.reason),
    )


def what(spec: pb.OverrideSpec) -> str:
    """What an override does, in short."""
    match spec.WhichOneof("kind"):
        case "drain":
            return _selected(spec.drain.endpoints)
        case "weight":
            return "; ".join(f"{_selected(rule.endpoints)} -> {rule.weight}" for rule in spec.weight.rules)
        case "pin":
            return "; ".join(_selected(each) for each in spec.pin.endpoints)
        case "register":
            return ", ".join(address_text(each.address) for each in spec.register.endpoints)
    return ""


def _selected(found: pb.EndpointSelector) -> str:
    parts = [f"{key}={getattr(found, field)}" for key, field in _SELECTORS.items() if getattr(found, field)]
    if found.address:
        where = address_text(found.address)
        parts.append(f"address={endpoint_text(where, found.port) if found.port else where}")
    return ",".join(parts)


def _address_and_port(text: str) -> tuple[bytes, int]:
    try:
        return address(text.removeprefix("[").removesuffix("]")), 0
    except ValueError:
        host, _, port = text.rpartition(":")
        if not port.isdecimal():
            raise
        return address(host.removeprefix("[").removesuffix("]")), int(port)
