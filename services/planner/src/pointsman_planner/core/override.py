# SPDX-License-Identifier: Apache-2.0
"""What an override is: somebody's wish, for a time, that a Service's endpoints are used otherwise than the API says.

Values only. `override_rules` says which are legal, `overrides` what they do, `override_table` which concern a Service.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from pointsman_model.names import Protocol, ServiceKey
from pointsman_planner.core.service_state import PortEndpoint


class OverrideKey(NamedTuple):
    """Name of an override; the namespace is that of its Service, empty for an override about all Services."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Selector(NamedTuple):
    """Names endpoints: one matches when it matches every field that is not empty."""

    address: bytes = b""
    port: int = 0
    node_name: str = ""
    target_name: str = ""
    target_name_prefix: str = ""

    def matches(self, endpoint: PortEndpoint) -> bool:
        """Whether an endpoint is meant."""
        if self.address and endpoint.address != self.address:
            return False
        if self.port and endpoint.port != self.port:
            return False
        if self.node_name and endpoint.node_name != self.node_name:
            return False
        if self.target_name and endpoint.target_name != self.target_name:
            return False
        return not self.target_name_prefix or endpoint.target_name.startswith(self.target_name_prefix)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """No new connections for some endpoints."""

    endpoints: Selector


class WeightRule(NamedTuple):
    """A weight for each of some endpoints."""

    endpoints: Selector
    weight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """Shares of new connections; the first rule that matches an endpoint counts."""

    rules: tuple[WeightRule, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """New connections only for endpoints that match one of these."""

    endpoints: tuple[Selector, ...]


class RegisteredPort(NamedTuple):
    """Where registered endpoints listen for one ServicePort, joined by name and protocol."""

    name: str
    protocol: Protocol
    port: int


class RegisteredEndpoint(NamedTuple):
    """An endpoint that no EndpointSlice lists."""

    address: bytes
    node_name: str = ""
    zone_hints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Register:
    """Endpoints beside those of the slices."""

    ports: tuple[RegisteredPort, ...]
    endpoints: tuple[RegisteredEndpoint, ...]


Kind = Drain | Weight | Pin | Register


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """One override."""

    key: OverrideKey
    owner: str
    kind: Kind
    service_name: str = ""
    """The Service, in the namespace of the override; empty = all of that namespace, or of all."""
    ttl_ns: int = 0
    """0 = lasts until it is deleted."""
    reason: str = ""
    etag: str = ""
    created_ns: int = 0
    expires_ns: int = 0
    """When it ends by itself, for people: nanoseconds since the epoch; 0 = never. Timers run on monotonic clocks."""

    @property
    def service(self) -> ServiceKey | None:
        """The one Service it is about; None when it is about many."""
        return ServiceKey(self.key.namespace, self.service_name) if self.service_name else None

    def concerns(self, service: ServiceKey) -> bool:
        """Whether it is about this Service, among others or alone."""
        return self.key.namespace in {"", service.namespace} and self.service_name in {"", service.name}

    @property
    def wish(self) -> tuple[object, ...]:
        """What the owner said: two overrides of equal wishes are the same version."""
        return (self.key, self.owner, self.kind, self.service_name, self.ttl_ns, self.reason)

    @property
    def kind_name(self) -> str:
        """`drain`, `weight`, `pin` or `register`."""
        return type(self.kind).__name__.lower()


KIND_NAMES = ("drain", "weight", "pin", "register")


class OverrideChange(NamedTuple):
    """An override's newest state, or its removal (`value` None)."""

    key: OverrideKey
    value: Override | None
    traceparent: str = ""
    observed_at_ns: int = 0


def selectors_of(kind: Kind) -> tuple[Selector, ...]:
    """Every selector of an override, in its order."""
    if isinstance(kind, Drain):
        return (kind.endpoints,)
    if isinstance(kind, Weight):
        return tuple(rule.endpoints for rule in kind.rules)
    return kind.endpoints if isinstance(kind, Pin) else ()
