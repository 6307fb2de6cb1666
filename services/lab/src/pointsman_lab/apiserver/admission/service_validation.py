# SPDX-License-Identifier: Apache-2.0
"""Service validation: every finding of a defaulted service at once, in the words of a real API server."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

from pointsman_lab.apiserver import errors
from pointsman_lab.apiserver.admission.rules import DNS_LABEL, PORT_RANGE_WORDS, PROTOCOLS, is_port
from pointsman_lab.apiserver.admission.service_defaults import (
    NODE_PORT_TYPES,
    family_of,
    is_externally_accessible,
    is_headless,
    needs_cluster_ip,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pointsman_lab.apiserver.encoding import Json
    from pointsman_lab.apiserver.errors import Cause

_TYPES: Final = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_AFFINITY_SECONDS_MAX: Final = 86400
_PORT_NAME: Final = re.compile(r"^(?=.*[a-z])(?!.*--)[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?$")
_CHOICES: Final = {
    "type": _TYPES,
    "sessionAffinity": ("ClientIP", "None"),
    "internalTrafficPolicy": ("Cluster", "Local"),
    "externalTrafficPolicy": ("Cluster", "Local"),
    "ipFamilyPolicy": ("PreferDualStack", "RequireDualStack", "SingleStack"),
    "trafficDistribution": ("PreferClose", "PreferSameNode", "PreferSameZone"),
}


def validate_service(spec: Json, cluster_families: Sequence[str]) -> list[Cause]:
    """Give what is wrong with a defaulted service spec."""
    causes = [
        errors.not_supported(f"spec.{field}", spec[field], choices)
        for field, choices in _CHOICES.items()
        if spec.get(field) is not None and spec[field] not in choices
    ]
    causes += _port_causes(spec)
    causes += _address_causes(spec)
    if spec.get("type") == "ExternalName":
        if not spec.get("externalName"):
            causes.append(errors.required("spec.externalName"))
    else:
        causes += _family_causes(spec, cluster_families)
    if spec.get("externalTrafficPolicy") and not is_externally_accessible(spec):
        why = "may only be set for externally-accessible services"
        causes.append(errors.invalid_value("spec.externalTrafficPolicy", spec["externalTrafficPolicy"], why))
    causes += _affinity_causes(spec)
    return causes


def validate_service_update(new: Json, old: Json) -> list[Cause]:
    """Give what may not change between two versions of a service."""
    causes: list[Cause] = []
    if not needs_cluster_ip(new) or not needs_cluster_ip(old):
        return causes
    for field in ("clusterIPs", "ipFamilies"):
        was, now = old.get(field) or [], new.get(field) or []
        if was and now[:1] != was[:1]:
            causes.append(errors.invalid_value(f"spec.{field}[0]", now, "may not change once set"))
    return causes


def _affinity_causes(spec: Json) -> list[Cause]:
    config = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
    seconds = config.get("timeoutSeconds")
    if seconds is None or (isinstance(seconds, int) and 0 < seconds <= _AFFINITY_SECONDS_MAX):
        return []
    field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
    return [errors.invalid_value(field, seconds, "must be greater than 0 and less than 86400")]


def _port_causes(spec: Json) -> list[Cause]:
    ports = spec.get("ports") or []
    if not ports:
        optional = spec.get("type") == "ExternalName" or is_headless(spec)
        return [] if optional else [errors.required("spec.ports")]
    causes: list[Cause] = []
    names: set[str] = set()
    identities: set[tuple[object, object]] = set()
    node_ports: set[tuple[object, object]] = set()
    for index, port in enumerate(ports):
        field = f"spec.ports[{index}]"
        causes += _one_port_causes(field, port, spec, several=len(ports) > 1)
        name = port.get("name") or ""
        if name and name in names:
            causes.append(errors.duplicate(f"{field}.name", name))
        names.add(name)
        identity = (port.get("protocol"), port.get("port"))
        if identity in identities:
            causes.append(errors.duplicate(field, f"{identity[0]}/{identity[1]}"))
        identities.add(identity)
        node_port = (port.get("protocol"), port.get("nodePort"))
        if node_port[1] and node_port in node_ports:
            causes.append(errors.duplicate(f"{field}.nodePort", node_port[1]))
        node_ports.add(node_port)
    return causes


def _one_port_causes(field: str, port: Json, spec: Json, *, several: bool) -> list[Cause]:
    causes: list[Cause] = []
    name = port.get("name") or ""
    if not name and several:
        causes.append(errors.required(f"{field}.name"))
    if name and not DNS_LABEL.match(name):
        causes.append(errors.invalid_value(f"{field}.name", name, "must be a lowercase RFC 1123 label"))
    if not is_port(port.get("port")):
        causes.append(errors.invalid_value(f"{field}.port", port.get("port"), PORT_RANGE_WORDS))
    if port.get("protocol") not in PROTOCOLS:
        causes.append(errors.not_supported(f"{field}.protocol", port.get("protocol"), PROTOCOLS))
    target = port.get("targetPort")
    if isinstance(target, str):
        if not _PORT_NAME.match(target):
            why = "must contain only alpha-numeric characters (a-z, 0-9) and hyphens (-), at most 15, one letter"
            causes.append(errors.invalid_value(f"{field}.targetPort", target, why))
    elif not is_port(target):
        causes.append(errors.invalid_value(f"{field}.targetPort", target, PORT_RANGE_WORDS))
    if port.get("nodePort") and spec.get("type") not in NODE_PORT_TYPES:
        why = f"may not be used when `type` is '{spec.get('type')}'"
        causes.append(errors.forbidden_field(f"{field}.nodePort", why))
    return causes


def _address_causes(spec: Json) -> list[Cause]:
    causes = [
        errors.invalid_value(f"spec.externalIPs[{index}]", address, "must be a valid IP address, (e.g. 10.9.8.7)")
        for index, address in enumerate(spec.get("externalIPs") or [])
        if not family_of(address)
    ]
    for index, cidr in enumerate(spec.get("loadBalancerSourceRanges") or []):
        try:
            ipaddress.ip_network(cidr.strip(), strict=False)
        except (ValueError, AttributeError):
            why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
            causes.append(errors.invalid_value(f"spec.loadBalancerSourceRanges[{index}]", cidr, why))
    if spec.get("loadBalancerSourceRanges") and spec.get("type") != "LoadBalancer":
        causes.append(
            errors.forbidden_field("spec.loadBalancerSourceRanges", "may only be used when `type` is 'LoadBalancer'")
        )
    every = spec.get("clusterIPs") or []
    if not needs_cluster_ip(spec):
        if every:
            causes.append(errors.forbidden_field("spec.clusterIPs", "may not be set for ExternalName services"))
        return causes
    if every and spec.get("clusterIP") != every[0]:
        causes.append(errors.invalid_value("spec.clusterIPs", every, "first value must match `clusterIP`"))
    for index, address in enumerate(every):
        if address != "None" and not family_of(address):
            why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
            causes.append(errors.invalid_value(f"spec.clusterIPs[{index}]", address, why))
    return causes


def _family_causes(spec: Json, cluster_families: Sequence[str]) -> list[Cause]:
    families = spec.get("ipFamilies") or []
    selectorless = is_headless(spec) and not spec.get("selector")
    if len(set(families)) != len(families):
        return [errors.duplicate("spec.ipFamilies", families)]
    if spec.get("ipFamilyPolicy") == "SingleStack" and len(families) > 1:
        why = "must be RequireDualStack or PreferDualStack when multiple IP families are specified"
        return [errors.invalid_value("spec.ipFamilyPolicy", "SingleStack", why)]
    if selectorless:
        return []
    if spec.get("ipFamilyPolicy") == "RequireDualStack" and len(cluster_families) == 1:
        why = "this cluster is not configured for dual-stack services"
        return [errors.invalid_value("spec.ipFamilyPolicy", "RequireDualStack", why)]
    return [
        errors.invalid_value(f"spec.ipFamilies[{index}]", family, "not configured on this cluster")
        for index, family in enumerate(families)
        if family not in cluster_families
    ]
