# SPDX-License-Identifier: Apache-2.0
"""Which overrides are legal. Every limit stands here, and docs/overrides.md repeats them for readers.

`problems` needs nothing but the override and is asked of everything that comes in, from a controller as from a store.
`crowd_problems` and `address_problems` compare with what else there is at the time of asking; what becomes of a Service
later is `apply_overrides`' matter, which leaves out what is not legal then.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence

from pointsman_model.cluster import Service
from pointsman_model.names import Prefix, family_of, format_address, is_object_name
from pointsman_planner.core.override import Drain, Kind, Override, Pin, Register, Selector, Weight
from pointsman_planner.core.overrides import REGISTERED_MAX

WEIGHT_MAX = 1000
RULES_MAX = 16
PINNED_MAX = 64
PORTS_MAX = 16
ENDPOINTS_MAX = 100
ZONES_MAX = 8
OVERRIDES_MAX = 10_000
"""In all."""
OVERRIDES_OF_MANY_MAX = 256
"""About more than one Service: every Service looks at each of them."""
OVERRIDES_OF_ONE_MAX = 64
"""About one Service."""
OWNER_CHARACTERS_MAX = 128
REASON_CHARACTERS_MAX = 256
SECOND_NS = 1_000_000_000
TTL_NS_MIN = SECOND_NS
TTL_NS_MAX = 30 * 86_400 * SECOND_NS
LEASE_NS_MAX = 86_400 * SECOND_NS
_NAME = re.compile(r"[a-z0-9](?:[-.a-z0-9]{0,61}[a-z0-9])?")
_RESERVED = tuple(map(ipaddress.ip_network, ("0.0.0.0/8", "240.0.0.0/4", "::/128")))


def problems(override: Override) -> list[str]:
    """Every rule that an override breaks, in words that begin with the field; empty when it is legal."""
    found = [*_name_problems(override), *_text_problems(override), *_time_problems(override)]
    found += _scope_problems(override)
    kind = override.kind
    if isinstance(kind, Drain):
        found += _selector_problems(kind.endpoints, "drain.endpoints")
    elif isinstance(kind, Weight):
        found += _weight_problems(kind)
    elif isinstance(kind, Pin):
        found += _count_problems(len(kind.endpoints), PINNED_MAX, "pin.endpoints")
        for index, selector in enumerate(kind.endpoints):
            found += _selector_problems(selector, f"pin.endpoints[{index}]")
    else:
        found += _register_problems(kind)
    return found


def crowd_problems(override: Override, held: Iterable[Override]) -> list[str]:
    """What is too much together with the overrides that are held; `held` may contain an older version of it."""
    others = [each for each in held if each.key != override.key]
    service = override.service
    if len(others) >= OVERRIDES_MAX:
        return [f"there are {len(others)} overrides already, {OVERRIDES_MAX} is the limit; delete some"]
    if service is None:
        many = sum(each.service is None for each in others)
        if many >= OVERRIDES_OF_MANY_MAX:
            return [f"spec.service_name: {many} overrides are about many Services already, which is the limit"]
        return []
    own = [each for each in others if each.service == service]
    if len(own) >= OVERRIDES_OF_ONE_MAX:
        return [f"spec.service_name: {len(own)} overrides are about {service} already, which is the limit"]
    count = sum(_registered(each.kind) for each in (*own, override))
    if count > REGISTERED_MAX:
        return [f"register.endpoints: {count} would be registered for {service}, {REGISTERED_MAX} is the limit"]
    return []


def address_problems(kind: Kind, reserved: Sequence[Prefix], services: Iterable[Service]) -> list[str]:
    """Registered addresses at which a Service answers, or could: `reserved` are the service CIDRs."""
    if not isinstance(kind, Register):
        return []
    wanted = frozenset(each.address for each in kind.endpoints)
    refused = {address for address in wanted if any(block.contains(address) for block in reserved)}
    for service in services:
        refused.update(wanted.intersection(service.cluster_ips))
        refused.update(wanted.intersection(service.external_ips))
        refused.update(wanted.intersection(ip.address for ip in service.load_balancer_ips))
    return [
        f"register.endpoints[{index}].address: {format_address(each.address)} is an address of Services"
        for index, each in enumerate(kind.endpoints)
        if each.address in refused
    ]


def _name_problems(override: Override) -> Iterator[str]:
    if not _NAME.fullmatch(override.key.name):
        yield (
            f"name.name: {override.key.name[:80]!r} is not 1 to 63 lower case letters, digits, '-' and '.', "
            "beginning and ending with a letter or digit"
        )
    if override.key.namespace and not is_object_name(override.key.namespace):
        yield f"name.namespace: {override.key.namespace[:80]!r} is no name that a namespace could have"
    if override.service_name and not is_object_name(override.service_name):
        yield f"spec.service_name: {override.service_name[:80]!r} is no name that a Service could have"
    if override.service_name and not override.key.namespace:
        yield "name.namespace: an override of one Service is in the namespace of that Service"


def _text_problems(override: Override) -> Iterator[str]:
    owner = override.owner
    if not 0 < len(owner) <= OWNER_CHARACTERS_MAX or not owner.isprintable():
        yield f"owner: must be 1 to {OWNER_CHARACTERS_MAX} printable characters: who wants this"
    if len(override.reason) > REASON_CHARACTERS_MAX or not all(c.isprintable() for c in override.reason):
        yield f"spec.reason: must be at most {REASON_CHARACTERS_MAX} printable characters"


def _time_problems(override: Override) -> Iterator[str]:
    ttl = override.ttl_ns
    if isinstance(override.kind, Register):
        if not TTL_NS_MIN <= ttl <= LEASE_NS_MAX:
            yield "spec.ttl: registered endpoints need a lease, of 1 s to 24 hours"
    elif ttl and not TTL_NS_MIN <= ttl <= TTL_NS_MAX:
        yield "spec.ttl: must be 1 s to 30 days, or absent"


def _scope_problems(override: Override) -> Iterator[str]:
    if not override.service_name and not isinstance(override.kind, Drain):
        yield f"spec.service_name: {override.kind_name} is about one Service; only a drain may be about many"


def _selector_problems(selector: Selector, where: str) -> Iterator[str]:
    if not any(selector):
        yield f"{where}: at least one field must be set"
    if selector.address and len(selector.address) not in {4, 16}:
        yield f"{where}.address: {len(selector.address)} bytes, an IP address has 4 or 16"
    if selector.port and not selector.address:
        yield f"{where}.port: needs an address"
    if not 0 <= selector.port <= 65535:
        yield f"{where}.port: {selector.port} is not within 0..65535"
    for field in ("node_name", "target_name", "target_name_prefix"):
        text: str = getattr(selector, field)
        if text and not is_object_name(text):
            yield f"{where}.{field}: {text[:80]!r} is no name that an object could have"


def _count_problems(count: int, most: int, where: str) -> Iterator[str]:
    if not 1 <= count <= most:
        yield f"{where}: {count} is not within 1..{most}"


def _weight_problems(kind: Weight) -> Iterator[str]:
    yield from _count_problems(len(kind.rules), RULES_MAX, "weight.rules")
    for index, rule in enumerate(kind.rules):
        yield from _selector_problems(rule.endpoints, f"weight.rules[{index}].endpoints")
        if not 0 <= rule.weight <= WEIGHT_MAX:
            yield f"weight.rules[{index}].weight: {rule.weight} is not within 0..{WEIGHT_MAX}"


def _register_problems(kind: Register) -> Iterator[str]:
    yield from _count_problems(len(kind.ports), PORTS_MAX, "register.ports")
    yield from _count_problems(len(kind.endpoints), ENDPOINTS_MAX, "register.endpoints")
    for index, port in enumerate(kind.ports):
        if port.name and not is_object_name(port.name):
            yield f"register.ports[{index}].name: {port.name[:80]!r} is no name that a port could have"
        if not 1 <= port.port <= 65535:
            yield f"register.ports[{index}].port: {port.port} is not within 1..65535"
    for index, endpoint in enumerate(kind.endpoints):
        where = f"register.endpoints[{index}]"
        reason = address_problem(endpoint.address)
        if reason:
            yield f"{where}.address: {reason}"
        if endpoint.node_name and not is_object_name(endpoint.node_name):
            yield f"{where}.node_name: {endpoint.node_name[:80]!r} is no name that a node could have"
        if len(endpoint.zone_hints) > ZONES_MAX or not all(map(is_object_name, endpoint.zone_hints)):
            yield f"{where}.zone_hints: must be at most {ZONES_MAX} names"


def address_problem(address: bytes) -> str:
    """Why no endpoint can have an address, as the API server decides it for slices; empty when one can."""
    try:
        family_of(address)
    except ValueError as error:
        return str(error)
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return f"{ip} is an IPv4 address in IPv6 form; send its 4 bytes"
    for word in ("loopback", "link_local", "multicast"):
        if getattr(ip, f"is_{word}"):
            return f"{ip} is {word.replace('_', '-')}: no endpoint can have it"
    if any(ip.version == block.version and ip in block for block in _RESERVED):
        return f"{ip} is reserved: no endpoint can have it"
    return ""


def _registered(kind: Kind) -> int:
    return len(kind.endpoints) * len(kind.ports) if isinstance(kind, Register) else 0
