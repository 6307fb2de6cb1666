# SPDX-License-Identifier: Apache-2.0
"""A discovery.k8s.io/v1 EndpointSlice of the API to the vocabulary. Facts only: readiness is not judged here."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from msgspec import UNSET

from pointsman_model.cluster import Endpoint, EndpointPort, EndpointSlice, SliceKey, TargetRef
from pointsman_model.names import Family, ServiceKey, format_address, parse_address
from pointsman_watcher.core.api_objects import (
    TRIGGER_TIME_ANNOTATION,
    EndpointFields,
    EndpointPortFields,
    EndpointSliceObject,
    Hint,
    TargetReference,
)
from pointsman_watcher.core.facts import is_port, read_protocol, read_time_ns
from pointsman_watcher.core.problems import Problem, Problems, quote

_FAMILIES: Final[Mapping[str, Family]] = MappingProxyType({"IPv4": Family.IPV4, "IPv6": Family.IPV6})


def convert_endpoint_slice(api: EndpointSliceObject, problems: Problems) -> EndpointSlice | None:
    """The slice, or None when it is not ours.

    Not ours (semantics A2, A4, A6): address type FQDN, the headless label, no service-name label.
    """
    metadata = api.metadata
    family = _FAMILIES.get(api.address_type)
    if family is None:
        if api.address_type != "FQDN":
            problems.append(Problem("addressType", f"{quote(api.address_type)} is not known; the slice is ignored"))
        return None
    labels = metadata.labels
    if labels is None or not labels.service_name or labels.headless is not UNSET:
        return None
    annotations = metadata.annotations
    trigger_time = annotations.trigger_time if annotations else None
    return EndpointSlice(
        key=SliceKey(metadata.namespace, metadata.name),
        uid=metadata.uid,
        service=ServiceKey(metadata.namespace, labels.service_name),
        family=family,
        ports=_ports(api.ports or [], problems),
        endpoints=_endpoints(api.endpoints or [], family, problems),
        trigger_time_ns=read_time_ns(trigger_time, f"metadata.annotations[{TRIGGER_TIME_ANNOTATION}]", problems)
        if trigger_time
        else 0,
    )


def _ports(ports: list[EndpointPortFields], problems: Problems) -> tuple[EndpointPort, ...]:
    """Ports with a name and a number. Nil (or 0) is legal in the API and means "no restriction": nothing to proxy."""
    found: list[EndpointPort] = []
    for index, port in enumerate(ports):
        if port.name is None or not port.port:
            continue
        protocol = read_protocol(port.protocol, f"ports[{index}].protocol", problems)
        if protocol is None:
            continue
        if not is_port(port.port):
            message = f"{quote(port.port)} is not a port number; the port is ignored"
            problems.append(Problem(f"ports[{index}].port", message))
            continue
        found.append(EndpointPort(port.name, protocol, port.port, port.app_protocol or ""))
    return tuple(found)


def _endpoints(items: list[EndpointFields], family: Family, problems: Problems) -> tuple[Endpoint, ...]:
    found: list[Endpoint] = []
    for index, item in enumerate(items):
        address = _address(item.addresses, family, index, problems)
        if address is not None:
            found.append(_endpoint(item, address))
    return tuple(found)


def _address(texts: list[str] | None, family: Family, index: int, problems: Problems) -> bytes | None:
    """addresses[0], the only one a service proxy uses; None after a report."""
    if not texts:
        problems.append(Problem(f"endpoints[{index}].addresses", "empty; the endpoint is ignored"))
        return None
    field = f"endpoints[{index}].addresses[0]"
    try:
        address = parse_address(texts[0])
    except ValueError as error:
        problems.append(Problem(field, f"{error}; the endpoint is ignored"))
        return None
    if len(address) != family.address_bytes:
        text = format_address(address)
        problems.append(Problem(field, f"{text} in a slice of address type {family.name}; the endpoint is ignored"))
        return None
    if _is_forbidden(address):
        text = format_address(address)
        message = f"{text} is unspecified, loopback, link-local or multicast; the endpoint is ignored"
        problems.append(Problem(field, message))
        return None
    return address


def _is_forbidden(address: bytes) -> bool:
    """Whether this is unspecified, loopback, link-local, multicast or reserved.

    The API server refuses these as endpoint addresses. Should one arrive all the same, a rule for it would let anybody
    who may write slices reach what listens on a node's loopback only (the reach of CVE-2020-8558), so it counts as
    malformed. Compared byte by byte, because it runs for every endpoint of the cluster.
    """
    first = address[0]
    if len(address) == 4:
        return first in {0, 127} or first >= 224 or (first == 169 and address[1] == 254)
    return first == 0xFF or (first == 0xFE and address[1] & 0xC0 == 0x80) or not any(address[:15])


def _endpoint(item: EndpointFields, address: bytes) -> Endpoint:
    """Nil conditions: ready and serving count as true, terminating as false (semantics A8)."""
    conditions, hints = item.conditions, item.hints
    return Endpoint(
        address,
        conditions is None or conditions.ready is not False,
        conditions is None or conditions.serving is not False,
        conditions is not None and conditions.terminating is True,
        item.node_name or None,
        item.zone or None,
        _names(hints.for_zones) if hints else (),
        _names(hints.for_nodes) if hints else (),
        _target(item.target_ref) if item.target_ref else None,
        item.hostname or "",
    )


def _names(hints: list[Hint] | None) -> tuple[str, ...]:
    return tuple([hint.name for hint in hints if hint.name]) if hints else ()


def _target(reference: TargetReference) -> TargetRef:
    return TargetRef(reference.kind or "", reference.namespace or "", reference.name or "", reference.uid or "")
