# SPDX-License-Identifier: Apache-2.0
"""What deserves a look about a legal override: that it does less, or more, than its author may think."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import gcd

from pointsman_model.names import Prefix, family_of, format_address
from pointsman_planner.core.override import Override, Pin, Register, Selector, Weight, selectors_of
from pointsman_planner.core.overrides import apply_overrides, own_addresses, slots_max
from pointsman_planner.core.service_state import PortEndpoint, ServiceState, is_usable


def warnings(override: Override, state: ServiceState | None, reserved: Sequence[Prefix] = ()) -> list[str]:
    """What deserves a look: the override is legal, and does less than it says.

    Args:
        override: a legal override.
        state: its Service joined with its slices, without overrides; None when there is none.
        reserved: the service CIDRs.
    """
    if override.service is None:
        return []
    if state is None:
        return [f"there is no Service {override.service} to program: the override waits for it"]
    kind = override.kind
    alone = apply_overrides(state, [override], reserved)
    if isinstance(kind, Register):
        return list(_register_warnings(kind, state, alone))
    endpoints = [e for port in state.ports for e in port.endpoints]
    found = [
        f"no endpoint of {override.service} matches {selector_text(selector)}"
        for selector in selectors_of(kind)
        if not any(selector.matches(e) for e in endpoints)
    ]
    if isinstance(kind, Pin) and not any(is_usable(e) for port in alone.ports for e in port.endpoints):
        found.append(f"no usable endpoint of {override.service} is left: its connections are refused")
    if isinstance(kind, Weight):
        found += _weight_warnings(kind, state)
    return found


def selector_text(selector: Selector) -> str:
    """A selector for people."""
    words = []
    if selector.address:
        port = f" port {selector.port}" if selector.port else ""
        words.append(f"address {format_address(selector.address)}{port}")
    if selector.node_name:
        words.append(f"node {selector.node_name}")
    if selector.target_name:
        words.append(f"target {selector.target_name}")
    if selector.target_name_prefix:
        words.append(f"target {selector.target_name_prefix}*")
    return ", ".join(words)


def _register_warnings(kind: Register, state: ServiceState, alone: ServiceState) -> Iterator[str]:
    names = {(port.name, port.protocol) for port in state.ports}
    for port in kind.ports:
        if (port.name, port.protocol) not in names:
            yield f"{state.key} has no port {port.name!r} of {port.protocol.name}: nothing is registered for it"
    families = {port.family for port in state.ports}
    absent = sorted(format_address(e.address) for e in kind.endpoints if family_of(e.address) not in families)
    if absent:
        yield f"{state.key} has no address of the family of {', '.join(absent[:5])}: nothing is registered there"
    ready = [e for port in state.ports for e in port.endpoints if e.ready]
    if ready and all(e.zone_hints for e in ready) and not all(e.zone_hints for e in kind.endpoints):
        yield f"{state.key} loses its topology hints: not all of its endpoints have some then"
    blocks = own_addresses(state.service)
    if any(block.contains(e.address) for block in blocks for e in kind.endpoints):
        yield f"an address of {state.key} itself is not used as an endpoint"
    if alone == state and not absent:
        yield f"nothing is added to {state.key}"


def _weight_warnings(kind: Weight, state: ServiceState) -> Iterator[str]:
    slots = slots_max(state)
    for port in state.ports:
        weights = [_weight_of(kind, e) for e in port.endpoints if is_usable(e)]
        positive = [weight for weight in weights if weight]
        if positive and not _fits(positive, slots):
            yield f"weights of {state.key} are scaled down to {slots} shares in all: keep them small"
            return


def _weight_of(kind: Weight, endpoint: PortEndpoint) -> int:
    return next((rule.weight for rule in kind.rules if rule.endpoints.matches(endpoint)), 1)


def _fits(weights: list[int], slots: int) -> bool:
    return sum(weights) // gcd(*weights) <= slots
