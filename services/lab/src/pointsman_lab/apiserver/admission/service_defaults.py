# SPDX-License-Identifier: Apache-2.0
"""Service defaults: the fields a real API server fills in, and what an update keeps or drops of the allocated ones."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pointsman_lab.apiserver.encoding import Json

CLIENT_IP_SECONDS: Final = 10800
_FAMILY_COUNT: Final = 2
NODE_PORT_TYPES: Final = ("NodePort", "LoadBalancer")


def is_headless(spec: Json) -> bool:
    """Tell whether the service asks for no cluster IP."""
    return "None" in (spec.get("clusterIP"), *(spec.get("clusterIPs") or [])[:1])


def needs_cluster_ip(spec: Json) -> bool:
    """Tell whether the service gets cluster IPs (headless ones get the word None)."""
    return spec.get("type") != "ExternalName"


def needs_node_ports(spec: Json) -> bool:
    """Tell whether each port gets a node port."""
    if spec.get("type") == "LoadBalancer":
        return spec.get("allocateLoadBalancerNodePorts") is not False
    return spec.get("type") == "NodePort"


def needs_health_check_port(spec: Json) -> bool:
    """Tell whether a load balancer asks nodes for their health."""
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def is_externally_accessible(spec: Json) -> bool:
    """Tell whether an external traffic policy means anything."""
    return spec.get("type") in NODE_PORT_TYPES or (spec.get("type") == "ClusterIP" and bool(spec.get("externalIPs")))


def default_service(body: Json, cluster_families: Sequence[str]) -> None:
    """Fill in the defaults of a service, in place; `cluster_families` is what the service CIDRs offer, first first."""
    spec = body["spec"] = body.get("spec") or {}
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    if spec["sessionAffinity"] == "ClientIP":
        spec.setdefault("sessionAffinityConfig", {"clientIP": {"timeoutSeconds": CLIENT_IP_SECONDS}})
    else:
        spec.pop("sessionAffinityConfig", None)
    _default_ports(spec)
    if spec["type"] != "ExternalName":
        spec.setdefault("internalTrafficPolicy", "Cluster")
    if is_externally_accessible(spec):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if spec["type"] == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    _pair_cluster_ips(spec)
    if needs_cluster_ip(spec):
        default_families(spec, cluster_families)
    status = body.get("status") or {}
    status["loadBalancer"] = status.get("loadBalancer") or {}
    for ingress in status["loadBalancer"].get("ingress") or []:
        if ingress.get("ip"):
            ingress.setdefault("ipMode", "VIP")
    body["status"] = status


def _default_ports(spec: Json) -> None:
    for port in spec.get("ports") or []:
        port.setdefault("protocol", "TCP")
        if port.get("targetPort") in (None, 0, ""):
            port["targetPort"] = port.get("port")
        if port.get("nodePort") in (None, 0):
            port.pop("nodePort", None)


def _pair_cluster_ips(spec: Json) -> None:
    first, every = spec.get("clusterIP") or "", spec.get("clusterIPs") or []
    if first and not every:
        spec["clusterIPs"] = [first]
    elif every and not first:
        spec["clusterIP"] = every[0]


def default_families(spec: Json, cluster_families: Sequence[str]) -> None:
    """Decide policy and families from what is given: the policy, the families, the addresses, the selector."""
    addresses = [ip for ip in spec.get("clusterIPs") or [] if ip != "None"]
    families = list(spec.get("ipFamilies") or [])
    selectorless = is_headless(spec) and not spec.get("selector")
    if not spec.get("ipFamilyPolicy"):
        two = selectorless or _FAMILY_COUNT in (len(addresses), len(families))
        spec["ipFamilyPolicy"] = "RequireDualStack" if two else "SingleStack"
    for address in addresses[len(families) :]:
        family = family_of(address)
        if family and family not in families:
            families.append(family)
    if not families:
        families = [cluster_families[0]]
    if spec["ipFamilyPolicy"] != "SingleStack" and len(families) == 1:
        other = "IPv6" if families[0] == "IPv4" else "IPv4"
        if other in cluster_families or selectorless:
            families.append(other)
    spec["ipFamilies"] = families


def family_of(address: str) -> str:
    """Give IPv4 or IPv6, empty for text that is no address."""
    try:
        return f"IPv{ipaddress.ip_address(address).version}"
    except ValueError:
        return ""


def carry_over(body: Json, before: Json) -> None:
    """Keep the fields the server owns in the next version of a service, and drop those that lost their use.

    A client that leaves out an allocated field means no change; a client that changes the type means its fields.
    """
    new, old = body["spec"], before["spec"]
    if needs_cluster_ip(new) and needs_cluster_ip(old):
        _keep_addresses(new, old)
    elif not needs_cluster_ip(new):
        for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"):
            _drop_unchanged(new, old, field)
    if new.get("type") in NODE_PORT_TYPES and old.get("type") in NODE_PORT_TYPES:
        _keep_node_ports(new, old)
    elif new.get("type") not in NODE_PORT_TYPES:
        _drop_node_ports(new, old)
    if needs_health_check_port(new) and needs_health_check_port(old):
        new.setdefault("healthCheckNodePort", old.get("healthCheckNodePort"))
    elif not needs_health_check_port(new):
        _drop_unchanged(new, old, "healthCheckNodePort")
    if not is_externally_accessible(new):
        _drop_unchanged(new, old, "externalTrafficPolicy")
    if new.get("type") != "LoadBalancer":
        _drop_unchanged(new, old, "allocateLoadBalancerNodePorts")
        _drop_unchanged(new, old, "loadBalancerClass")
        body["status"] = {"loadBalancer": {}}


def _drop_unchanged(new: Json, old: Json, field: str) -> None:
    if new.get(field) == old.get(field):
        new.pop(field, None)


def _keep_addresses(new: Json, old: Json) -> None:
    new["clusterIP"] = new.get("clusterIP") or old.get("clusterIP")
    given = new.get("clusterIPs")
    if not given and new["clusterIP"] == old.get("clusterIP"):
        new["clusterIPs"] = list(old.get("clusterIPs") or [])
    new["ipFamilyPolicy"] = new.get("ipFamilyPolicy") or old.get("ipFamilyPolicy")
    new["ipFamilies"] = new.get("ipFamilies") or list(old.get("ipFamilies") or [])
    if new["ipFamilyPolicy"] == "SingleStack" and new["ipFamilyPolicy"] != old.get("ipFamilyPolicy"):
        for field in ("clusterIPs", "ipFamilies"):
            if new.get(field) == old.get(field):
                new[field] = (new.get(field) or [])[:1]


def _port_identity(port: Json) -> tuple[Any, Any]:
    return port.get("protocol", "TCP"), port.get("port")


def _keep_node_ports(new: Json, old: Json) -> None:
    if not needs_node_ports(new):
        return
    known = {_port_identity(port): port.get("nodePort") for port in old.get("ports") or []}
    taken = {port.get("nodePort") for port in new.get("ports") or [] if port.get("nodePort")}
    for port in new.get("ports") or []:
        kept = known.get(_port_identity(port))
        if not port.get("nodePort") and kept and kept not in taken:
            port["nodePort"] = kept


def _drop_node_ports(new: Json, old: Json) -> None:
    known = {port.get("nodePort") for port in old.get("ports") or []}
    for port in new.get("ports") or []:
        if port.get("nodePort") in known:
            port.pop("nodePort", None)
