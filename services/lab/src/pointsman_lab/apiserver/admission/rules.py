# SPDX-License-Identifier: Apache-2.0
"""The interface between the registry and the rules of a kind, and the rules of the kinds that need few words."""

from __future__ import annotations

import base64
import ipaddress
import re
from typing import TYPE_CHECKING, Final, Protocol

from pointsman_lab.apiserver import errors
from pointsman_lab.apiserver.errors import Cause

if TYPE_CHECKING:
    from pointsman_lab.apiserver.encoding import Json

DNS_SUBDOMAIN: Final = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
DNS_LABEL: Final = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
PORT_MAX: Final = 65535
PORT_RANGE_WORDS: Final = "must be between 1 and 65535, inclusive"
PROTOCOLS: Final = ("SCTP", "TCP", "UDP")
_LABEL_MAX: Final = 63
_SUBDOMAIN_MAX: Final = 253
_SUBDOMAIN_WORDS: Final = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_LABEL_WORDS: Final = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)


class Rules(Protocol):
    """The rules of one kind; both calls change the body in place and give what is wrong with it."""

    def on_create(self, body: Json) -> list[Cause]:
        """Default and check a new object."""

    def on_update(self, body: Json, before: Json) -> list[Cause]:
        """Carry over what the server owns, default and check the next version of an object."""


def check_name(name: str, *, label: bool = False) -> list[Cause]:
    """Check an object's name: a DNS subdomain, or a DNS label where the kind wants one."""
    if label and (len(name) > _LABEL_MAX or not DNS_LABEL.match(name)):
        return [errors.invalid_value("metadata.name", name, _LABEL_WORDS)]
    if len(name) > _SUBDOMAIN_MAX or not DNS_SUBDOMAIN.match(name):
        return [errors.invalid_value("metadata.name", name, _SUBDOMAIN_WORDS)]
    return []


def check_labels(body: Json) -> list[Cause]:
    """Check that labels and annotations are maps of strings, since selectors rely on it."""
    causes = []
    for field in ("labels", "annotations"):
        values = body["metadata"].get(field)
        if values is None:
            continue
        if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
            causes.append(errors.invalid_value(f"metadata.{field}", str(values), "must be a map of strings"))
    return causes


def is_port(value: object) -> bool:
    """Tell whether a value is a usable port number."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= PORT_MAX


class NoRules:
    """The rules of kinds that are stored as they come."""

    def on_create(self, body: Json) -> list[Cause]:  # noqa: ARG002 - the interface gives the body
        """Accept anything."""
        return []

    def on_update(self, body: Json, before: Json) -> list[Cause]:  # noqa: ARG002 - the interface gives both
        """Accept anything."""
        return []


class EndpointSliceRules:
    """EndpointSlices: an address type that never changes, addresses of that type, sane ports."""

    def on_create(self, body: Json) -> list[Cause]:
        """Default the ports' protocol and name; check the rest."""
        body.setdefault("endpoints", [])
        for port in body.get("ports") or []:
            if isinstance(port, dict):
                port.setdefault("name", "")
                port.setdefault("protocol", "TCP")
        body.setdefault("ports", None)
        return _slice_causes(body)

    def on_update(self, body: Json, before: Json) -> list[Cause]:
        """As on create; the address type is immutable."""
        body.setdefault("addressType", before.get("addressType"))
        causes = self.on_create(body)
        if body.get("addressType") != before.get("addressType"):
            causes.append(errors.invalid_value("addressType", body.get("addressType"), "field is immutable"))
        return causes


_ENDPOINTS_MAX: Final = 1000
_ADDRESSES_MAX: Final = 100


def _slice_causes(body: Json) -> list[Cause]:
    kind = body.get("addressType")
    if not kind:
        return [errors.required("addressType")]
    if kind not in ("IPv4", "IPv6", "FQDN"):
        return [errors.not_supported("addressType", kind, ("FQDN", "IPv4", "IPv6"))]
    causes: list[Cause] = []
    endpoints = body.get("endpoints") or []
    if len(endpoints) > _ENDPOINTS_MAX:
        causes.append(
            Cause(field="endpoints", reason="FieldValueTooMany", message="Too many: must have at most 1000 items")
        )
    for index, endpoint in enumerate(endpoints):
        causes.extend(_endpoint_causes(f"endpoints[{index}]", endpoint, kind))
    for index, port in enumerate(body.get("ports") or []):
        number = port.get("port") if isinstance(port, dict) else None
        if number is not None and not is_port(number):
            causes.append(errors.invalid_value(f"ports[{index}].port", number, PORT_RANGE_WORDS))
    return causes


def _endpoint_causes(field: str, endpoint: object, kind: str) -> list[Cause]:
    addresses = endpoint.get("addresses") if isinstance(endpoint, dict) else None
    if not isinstance(addresses, list) or not addresses:
        return [errors.required(f"{field}.addresses", "must contain at least 1 address")]
    if len(addresses) > _ADDRESSES_MAX:
        return [
            Cause(
                field=f"{field}.addresses", reason="FieldValueTooMany", message="Too many: must have at most 100 items"
            )
        ]
    if kind == "FQDN":
        return []
    version = 4 if kind == "IPv4" else 6
    return [
        errors.invalid_value(f"{field}.addresses[{index}]", address, f"must be a valid {kind} address")
        for index, address in enumerate(addresses)
        if not _is_address(address, version)
    ]


def _is_address(text: object, version: int) -> bool:
    try:
        return isinstance(text, str) and ipaddress.ip_address(text).version == version
    except ValueError:
        return False


class ServiceCidrRules:
    """ServiceCIDRs: one or two ranges of different families, ready at once."""

    def __init__(self, now: NowText) -> None:
        self._now = now

    def on_create(self, body: Json) -> list[Cause]:
        """Check the ranges and report the object ready, as the real controller soon would."""
        cidrs = (body.get("spec") or {}).get("cidrs") or []
        causes = [] if cidrs else [errors.required("spec.cidrs", "at least one CIDR required")]
        for index, cidr in enumerate(cidrs):
            try:
                ipaddress.ip_network(cidr)
            except ValueError:
                causes.append(errors.invalid_value(f"spec.cidrs[{index}]", cidr, "must be a valid CIDR value"))
        ready = {
            "type": "Ready",
            "status": "True",
            "lastTransitionTime": self._now(),
            "reason": "",
            "message": "Kubernetes Service CIDR is ready",
        }
        body["status"] = {"conditions": [ready]}
        return causes

    def on_update(self, body: Json, before: Json) -> list[Cause]:
        """Refuse another set of ranges."""
        if body.get("spec") != before.get("spec"):
            return [errors.invalid_value("spec.cidrs", str(body.get("spec")), "field is immutable")]
        return []


class NowText(Protocol):
    """A clock that tells the time in the form of the API (RFC 3339, seconds, Z)."""

    def __call__(self) -> str:
        """Give the present time."""


class SecretRules:
    """Secrets: stringData is a convenience of the writer and is stored as data."""

    def on_create(self, body: Json) -> list[Cause]:
        """Move stringData into data; the default type is Opaque."""
        plain = body.pop("stringData", None)
        if plain:
            encoded = {name: base64.b64encode(str(value).encode()).decode() for name, value in plain.items()}
            body["data"] = (body.get("data") or {}) | encoded
        body["type"] = body.get("type") or "Opaque"
        return []

    def on_update(self, body: Json, before: Json) -> list[Cause]:  # noqa: ARG002 - the interface gives both
        """As on create."""
        return self.on_create(body)


class NodeRules:
    """Nodes: what a bare Node object gets, so that kubectl can show it."""

    def on_create(self, body: Json) -> list[Cause]:
        """Fill in the empty spec and status."""
        body["spec"] = body.get("spec") or {}
        status = body["status"] = body.get("status") or {}
        status.setdefault("daemonEndpoints", {"kubeletEndpoint": {"Port": 0}})
        names = ("machineID", "systemUUID", "bootID", "kernelVersion", "osImage", "containerRuntimeVersion")
        more = ("kubeletVersion", "kubeProxyVersion", "operatingSystem", "architecture")
        status["nodeInfo"] = dict.fromkeys((*names, *more), "") | (status.get("nodeInfo") or {})
        return []

    def on_update(self, body: Json, before: Json) -> list[Cause]:  # noqa: ARG002 - the interface gives both
        """As on create."""
        return self.on_create(body)
