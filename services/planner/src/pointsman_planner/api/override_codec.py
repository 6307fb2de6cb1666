# SPDX-License-Identifier: Apache-2.0
"""Overrides to and from `pointsman.control.v1` messages."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from pointsman.control.v1 import override_service_pb2 as pb
from pointsman.types.v1 import types_pb2
from pointsman_chassis.errors import PeerError
from pointsman_model.names import Protocol
from pointsman_planner.core.override import (
    Drain,
    Kind,
    Override,
    OverrideKey,
    Pin,
    Register,
    RegisteredEndpoint,
    RegisteredPort,
    Selector,
    Weight,
    WeightRule,
)


def key_from_pb(name: types_pb2.NamespacedName) -> OverrideKey:
    """The name of an override; PeerError when it is empty."""
    if not name.name:
        raise PeerError("name.name: which override?")
    return OverrideKey(name.namespace, name.name)


def override_from_pb(message: pb.Override) -> Override:
    """The wish in a message, and the etag it names; what the planner sets is left out. PeerError when malformed."""
    spec = message.spec
    return Override(
        key=OverrideKey(message.name.namespace, message.name.name),
        owner=message.owner,
        kind=_kind(spec),
        service_name=spec.service_name,
        ttl_ns=spec.ttl.ToNanoseconds() if spec.HasField("ttl") else 0,
        reason=spec.reason,
        etag=message.etag,
    )


def _kind(spec: pb.OverrideSpec) -> Kind:
    which = spec.WhichOneof("kind")
    if which == "drain":
        return Drain(endpoints=_selector(spec.drain.endpoints))
    if which == "weight":
        return Weight(rules=tuple(WeightRule(_selector(rule.endpoints), rule.weight) for rule in spec.weight.rules))
    if which == "pin":
        return Pin(endpoints=tuple(map(_selector, spec.pin.endpoints)))
    if which == "register":
        return Register(
            ports=tuple(_port(port, f"register.ports[{index}]") for index, port in enumerate(spec.register.ports)),
            endpoints=tuple(
                RegisteredEndpoint(each.address, each.node_name, tuple(each.zone_hints))
                for each in spec.register.endpoints
            ),
        )
    raise PeerError("spec: one of drain, weight, pin and register must be set")


def _selector(message: pb.EndpointSelector) -> Selector:
    return Selector(message.address, message.port, message.node_name, message.target_name, message.target_name_prefix)


def _port(message: pb.RegisteredPort, where: str) -> RegisteredPort:
    try:
        return RegisteredPort(message.name, Protocol(message.protocol), message.port)
    except ValueError as error:
        raise PeerError(f"{where}.protocol: {error}") from error


def override_to_pb(override: Override) -> pb.Override:
    """The message of an override."""
    message = pb.Override(
        name=types_pb2.NamespacedName(namespace=override.key.namespace, name=override.key.name),
        owner=override.owner,
        etag=override.etag,
        spec=pb.OverrideSpec(service_name=override.service_name, reason=override.reason),
    )
    if override.ttl_ns:
        message.spec.ttl.FromNanoseconds(override.ttl_ns)
    if override.created_ns:
        message.create_time.CopyFrom(_timestamp(override.created_ns))
    if override.expires_ns:
        message.expire_time.CopyFrom(_timestamp(override.expires_ns))
    _set_kind(message.spec, override.kind)
    return message


def _set_kind(spec: pb.OverrideSpec, kind: Kind) -> None:
    if isinstance(kind, Drain):
        spec.drain.endpoints.CopyFrom(_selector_to_pb(kind.endpoints))
    elif isinstance(kind, Weight):
        for rule in kind.rules:
            spec.weight.rules.add(endpoints=_selector_to_pb(rule.endpoints), weight=rule.weight)
    elif isinstance(kind, Pin):
        spec.pin.endpoints.extend(map(_selector_to_pb, kind.endpoints))
    else:
        for port in kind.ports:
            protocol = types_pb2.Protocol.ValueType(port.protocol)
            spec.register.ports.add(name=port.name, protocol=protocol, port=port.port)
        for each in kind.endpoints:
            spec.register.endpoints.add(address=each.address, node_name=each.node_name, zone_hints=each.zone_hints)


def _selector_to_pb(selector: Selector) -> pb.EndpointSelector:
    return pb.EndpointSelector(
        address=selector.address,
        port=selector.port,
        node_name=selector.node_name,
        target_name=selector.target_name,
        target_name_prefix=selector.target_name_prefix,
    )


def _timestamp(nanoseconds: int) -> Timestamp:
    message = Timestamp()
    message.FromNanoseconds(nanoseconds)
    return message
