# SPDX-License-Identifier: Apache-2.0
"""Plans on the wire: `pointsman.plan.v1` messages to and from `pointsman_model.plan`.

Encoding is deterministic (no maps, sorted input, fields in number order), because the bytes of a ServicePlan are what
both sides hash. Decoding trusts nothing: what comes back satisfies every rule that the proto comments state, or
`PlanFormatError` says where a rule was broken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from google.protobuf.message import DecodeError

from pointsman.plan.v1 import plan_service_pb2 as pb
from pointsman.types.v1 import types_pb2
from pointsman_model.names import Family, Prefix, Protocol, family_of, make_prefix
from pointsman_model.plan import (
    DROP,
    REJECT,
    Action,
    DataplaneSettings,
    DetectLocal,
    Frontend,
    FrontendKind,
    HealthCheck,
    NodeFacts,
    PlanEndpoint,
    ServicePlan,
    ServicePortPlan,
    Verdict,
)
from pointsman_model.wire import WireError

_PORT_MAX = 65535


class PlanFormatError(WireError):
    """A message breaks a rule of plan.v1; the text says which field and why."""


def encode_service_plan(plan: ServicePlan) -> bytes:
    """The bytes of one service's plan: what ServiceUpdate.plan carries and digests cover."""
    return service_plan_to_pb(plan).SerializeToString()


def decode_service_plan(data: bytes) -> ServicePlan:
    """The plan that `encode_service_plan` encoded.

    Raises:
        PlanFormatError: the bytes are not a ServicePlan, or break a rule stated in the proto.
    """
    try:
        message = pb.ServicePlan.FromString(data)
    except DecodeError as error:
        raise PlanFormatError(f"plan: not a ServicePlan message: {error}") from error
    return service_plan_from_pb(message)


def service_plan_to_pb(plan: ServicePlan) -> pb.ServicePlan:
    """The message for a plan."""
    message = pb.ServicePlan(
        affinity_timeout_seconds=plan.affinity_timeout_seconds,
        required_capabilities=plan.required_capabilities,
        ipvs_scheduler=plan.ipvs_scheduler,
    )
    if plan.health_check is not None:
        message.health_check.node_port = plan.health_check.node_port
        message.health_check.local_endpoints = plan.health_check.local_endpoints
    for port in plan.ports:
        _add_port(message, port)
    return message


def _add_port(message: pb.ServicePlan, port: ServicePortPlan) -> None:
    added = message.ports.add(name=port.name)
    added.protocol = types_pb2.Protocol.ValueType(port.protocol)
    added.family = types_pb2.IPFamily.ValueType(port.family)
    for frontend in port.frontends:
        _add_frontend(added, frontend)
    for endpoints in port.endpoint_sets:
        weights = [endpoint.weight for endpoint in endpoints]
        added.endpoint_sets.add(
            addresses=b"".join([endpoint.address for endpoint in endpoints]),
            ports=[endpoint.port for endpoint in endpoints],
            weights=weights if any(weight != 1 for weight in weights) else (),
            hairpin=[index for index, endpoint in enumerate(endpoints) if endpoint.hairpin],
        )
    if port.also_serving:
        added.also_serving.addresses = b"".join([endpoint.address for endpoint in port.also_serving])
        added.also_serving.ports.extend([endpoint.port for endpoint in port.also_serving])


def _add_frontend(message: pb.ServicePortPlan, frontend: Frontend) -> None:
    added = message.frontends.add(address=frontend.address, port=frontend.port)
    added.kind = pb.Frontend.Kind.ValueType(frontend.kind)
    _set_verdict(added.from_pod, frontend.from_pod)
    _set_verdict(added.from_host, frontend.from_host)
    _set_verdict(added.from_outside, frontend.from_outside)
    if frontend.source_ranges:
        added.source_ranges.extend(prefixes_to_pb(frontend.source_ranges))


def _set_verdict(message: pb.Verdict, verdict: Verdict) -> None:
    message.action = pb.Verdict.Action.ValueType(verdict.action)
    if verdict.endpoint_set:
        message.endpoint_set = verdict.endpoint_set
    if verdict.masquerade:
        message.masquerade = True


def service_plan_from_pb(message: pb.ServicePlan) -> ServicePlan:
    """The plan in a message; PlanFormatError when it breaks a rule."""
    health = None
    if message.HasField("health_check"):
        node_port = _port(message.health_check.node_port, "health_check.node_port")
        health = HealthCheck(node_port=node_port, local_endpoints=message.health_check.local_endpoints)
    return ServicePlan(
        ports=tuple(_port_plan(port, f"ports[{index}]") for index, port in enumerate(message.ports)),
        affinity_timeout_seconds=message.affinity_timeout_seconds,
        health_check=health,
        required_capabilities=tuple(message.required_capabilities),
        ipvs_scheduler=message.ipvs_scheduler,
    )


def _port_plan(message: pb.ServicePortPlan, where: str) -> ServicePortPlan:
    try:
        protocol, family = Protocol(message.protocol), Family(message.family)
    except ValueError as error:
        raise PlanFormatError(f"{where}: {error}") from error
    sets = tuple(
        _endpoint_set(item, family, f"{where}.endpoint_sets[{index}]")
        for index, item in enumerate(message.endpoint_sets)
    )
    frontends = tuple(
        _frontend(item, family, len(sets), f"{where}.frontends[{index}]")
        for index, item in enumerate(message.frontends)
    )
    also_serving: tuple[PlanEndpoint, ...] = ()
    if message.HasField("also_serving"):
        also_serving = _also_serving(message.also_serving, protocol, family, f"{where}.also_serving")
    return ServicePortPlan(
        name=message.name,
        protocol=protocol,
        family=family,
        frontends=frontends,
        endpoint_sets=sets,
        also_serving=also_serving,
    )


def _also_serving(message: pb.EndpointSet, protocol: Protocol, family: Family, where: str) -> tuple[PlanEndpoint, ...]:
    if protocol is Protocol.TCP:
        raise PlanFormatError(f"{where}: is for UDP and SCTP only")
    if message.weights or message.hairpin:
        raise PlanFormatError(f"{where}: has neither weights nor hairpin")
    return _endpoint_set(message, family, where)


def _endpoint_set(message: pb.EndpointSet, family: Family, where: str) -> tuple[PlanEndpoint, ...]:
    size, count = family.address_bytes, len(message.ports)
    if not count:
        raise PlanFormatError(f"{where}: an endpoint set is never empty")
    if len(message.addresses) != size * count:
        raise PlanFormatError(f"{where}: {len(message.addresses)} address bytes for {count} ports of {family.name}")
    if message.weights and len(message.weights) != count:
        raise PlanFormatError(f"{where}: {len(message.weights)} weights for {count} endpoints")
    if any(index >= count for index in message.hairpin):
        raise PlanFormatError(f"{where}: a hairpin index is not below {count}")
    hairpin = frozenset(message.hairpin)
    weights: Sequence[int] = message.weights or [1] * count
    if 0 in weights:
        raise PlanFormatError(f"{where}: weight 0 is never sent")
    endpoints = tuple(
        PlanEndpoint(
            message.addresses[index * size : (index + 1) * size],
            _port(port, f"{where}.ports[{index}]"),
            weights[index],
            index in hairpin,
        )
        for index, port in enumerate(message.ports)
    )
    pairs = [endpoint[:2] for endpoint in endpoints]
    if any(first >= second for first, second in pairwise(pairs)):
        raise PlanFormatError(f"{where}: endpoints are not sorted by address and port without duplicates")
    return endpoints


def _frontend(message: pb.Frontend, family: Family, sets: int, where: str) -> Frontend:
    try:
        kind = FrontendKind(message.kind)
    except ValueError as error:
        raise PlanFormatError(f"{where}.kind: {error}") from error
    wanted = 0 if kind is FrontendKind.NODE_PORT else family.address_bytes
    if len(message.address) != wanted:
        raise PlanFormatError(
            f"{where}.address: {len(message.address)} bytes, {kind.name} of {family.name} has {wanted}"
        )
    ranges = prefixes_from_pb(message.source_ranges, f"{where}.source_ranges")
    if any(prefix.family is not family for prefix in ranges):
        raise PlanFormatError(f"{where}.source_ranges: a block is not of {family.name}")
    return Frontend(
        kind,
        message.address,
        _port(message.port, f"{where}.port"),
        _verdict(message.from_pod, sets, f"{where}.from_pod"),
        _verdict(message.from_host, sets, f"{where}.from_host"),
        _verdict(message.from_outside, sets, f"{where}.from_outside"),
        ranges,
    )


def _verdict(message: pb.Verdict, sets: int, where: str) -> Verdict:
    try:
        action = Action(message.action)
    except ValueError as error:
        raise PlanFormatError(f"{where}.action: {error}") from error
    if action is Action.REJECT:
        return REJECT
    if action is Action.DROP:
        return DROP
    if message.endpoint_set >= sets:
        raise PlanFormatError(f"{where}.endpoint_set: {message.endpoint_set} is not below {sets}")
    return Verdict(action, message.endpoint_set, message.masquerade)


def _port(value: int, where: str) -> int:
    if not 1 <= value <= _PORT_MAX:
        raise PlanFormatError(f"{where}: {value} is not within 1..{_PORT_MAX}")
    return value


def prefixes_to_pb(prefixes: Iterable[Prefix]) -> list[types_pb2.IPPrefix]:
    """The messages for some blocks."""
    return [types_pb2.IPPrefix(address=prefix.address, length=prefix.length) for prefix in prefixes]


def prefixes_from_pb(messages: Iterable[types_pb2.IPPrefix], where: str) -> tuple[Prefix, ...]:
    """The blocks in some messages; PlanFormatError, beginning with `where`, when one is malformed or has host bits."""
    prefixes = []
    for index, message in enumerate(messages):
        try:
            prefix = make_prefix(message.address, message.length)
        except ValueError as error:
            raise PlanFormatError(f"{where}[{index}]: {error}") from error
        if prefix.address != message.address:
            raise PlanFormatError(f"{where}[{index}]: host bits are set in {message.address.hex()}/{message.length}")
        prefixes.append(prefix)
    return tuple(prefixes)


def node_facts_to_pb(facts: NodeFacts) -> pb.NodeFacts:
    """The message for a node's facts."""
    return pb.NodeFacts(
        name=facts.name,
        addresses=facts.addresses,
        pod_cidrs=prefixes_to_pb(facts.pod_cidrs),
        service_cidrs=prefixes_to_pb(facts.service_cidrs),
        eligible=facts.eligible,
    )


def node_facts_from_pb(message: pb.NodeFacts) -> NodeFacts:
    """The facts in a message; PlanFormatError when an address or block is malformed."""
    try:
        for address in message.addresses:
            family_of(address)
    except ValueError as error:
        raise PlanFormatError(f"node.addresses: {error}") from error
    return NodeFacts(
        name=message.name,
        addresses=tuple(message.addresses),
        pod_cidrs=prefixes_from_pb(message.pod_cidrs, "node.pod_cidrs"),
        service_cidrs=prefixes_from_pb(message.service_cidrs, "node.service_cidrs"),
        eligible=message.eligible,
    )


def settings_to_pb(settings: DataplaneSettings) -> pb.DataplaneSettings:
    """The message for a node's own settings."""
    return pb.DataplaneSettings(
        detect_local=pb.DataplaneSettings.DetectLocal.ValueType(settings.detect_local),
        detect_local_cidrs=prefixes_to_pb(settings.detect_local_cidrs),
        detect_local_interface=settings.detect_local_interface,
        masquerade_all=settings.masquerade_all,
        node_port_addresses=prefixes_to_pb(settings.node_port_addresses),
    )


def settings_from_pb(message: pb.DataplaneSettings) -> DataplaneSettings:
    """The settings in a message; PlanFormatError when the detector is unknown or a block is malformed."""
    try:
        detector = DetectLocal(message.detect_local)
    except ValueError as error:
        raise PlanFormatError(f"settings.detect_local: {error}") from error
    return DataplaneSettings(
        detect_local=detector,
        detect_local_cidrs=prefixes_from_pb(message.detect_local_cidrs, "settings.detect_local_cidrs"),
        detect_local_interface=message.detect_local_interface,
        masquerade_all=message.masquerade_all,
        node_port_addresses=prefixes_from_pb(message.node_port_addresses, "settings.node_port_addresses"),
    )
