# SPDX-License-Identifier: Apache-2.0
"""A v1 Service of the API to the vocabulary.

A faulty item is left out and reported, the rest of the Service stays: one bad externalIP must not take a Service off
the air. The exception is what restricts access. loadBalancerSourceRanges empty means "everybody", so leaving out a
malformed range could open what its author meant to close (kube-proxy does exactly that). See `_source_ranges`.
"""

from typing import Final

from pointsman_model.cluster import LoadBalancerIP, LoadBalancerMode, Service, ServicePort, TrafficPolicy
from pointsman_model.names import Family, Prefix, ServiceKey, family_of, parse_prefix
from pointsman_watcher.core.api_objects import (
    SERVICE_PROXY_NAME_LABEL,
    Ingress,
    ServiceObject,
    ServicePortFields,
    ServiceSpec,
)
from pointsman_watcher.core.facts import (
    is_port,
    read_address,
    read_addresses,
    read_optional_port,
    read_protocol,
    sorted_items,
)
from pointsman_watcher.core.problems import Problem, Problems, quote

AFFINITY_TIMEOUT_SECONDS_DEFAULT: Final = 10800
AFFINITY_TIMEOUT_SECONDS_MAX: Final = 86400
ANNOTATION_PREFIX: Final = "pointsman.io/"

NOBODY_IPV4: Final = Prefix(bytes(4), 32)
"""0.0.0.0/32: a source range that no packet can come from (the kernel drops it as a martian)."""
NOBODY_IPV6: Final = Prefix(bytes(16), 128)
"""::/128: the same for IPv6; the unspecified address is never forwarded."""


class UnusableError(ValueError):
    """The object says something that cannot be programmed at all; `field` names the place."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def convert_service(api: ServiceObject, problems: Problems) -> Service | None:
    """The Service, or None when it is not ours to program.

    Not ours (semantics A1, A3): headless, ExternalName, or the label service-proxy-name, whatever its value.

    Raises:
        UnusableError: it has a cluster IP, but none that can be read.
    """
    metadata, spec = api.metadata, api.spec
    if spec.cluster_ip in {None, "", "None"} or spec.type == "ExternalName":
        return None
    if SERVICE_PROXY_NAME_LABEL in (metadata.labels or {}):
        return None
    ingress = api.status.load_balancer.ingress if api.status and api.status.load_balancer else None
    return Service(
        key=ServiceKey(metadata.namespace, metadata.name),
        uid=metadata.uid,
        type=spec.type or "ClusterIP",
        cluster_ips=_cluster_ips(spec, problems),
        external_ips=read_addresses(spec.external_ips, "spec.externalIPs", problems),
        load_balancer_ips=_load_balancer_ips(ingress or [], problems),
        ports=_ports(spec.ports or [], problems),
        internal_traffic_policy=_policy(spec.internal_traffic_policy, "spec.internalTrafficPolicy", problems),
        external_traffic_policy=_policy(spec.external_traffic_policy, "spec.externalTrafficPolicy", problems),
        load_balancer_source_ranges=_source_ranges(spec.load_balancer_source_ranges or [], problems),
        affinity_timeout_seconds=_affinity_timeout_seconds(spec, problems),
        health_check_node_port=read_optional_port(spec.health_check_node_port, "spec.healthCheckNodePort", problems),
        labels=sorted_items(metadata.labels),
        annotations=sorted_items(metadata.annotations, ANNOTATION_PREFIX),
        traffic_distribution=spec.traffic_distribution or "",
        publish_not_ready_addresses=bool(spec.publish_not_ready_addresses),
    )


def _cluster_ips(spec: ServiceSpec, problems: Problems) -> tuple[bytes, ...]:
    """spec.clusterIPs, else spec.clusterIP (semantics B1); the first of each family."""
    by_family: dict[Family, bytes] = {}
    for address in read_addresses(spec.cluster_ips or [spec.cluster_ip or ""], "spec.clusterIPs", problems):
        if by_family.setdefault(family_of(address), address) != address:
            problems.append(Problem("spec.clusterIPs", "a second address of one family is ignored"))
    if not by_family:
        # A Service without a family is programmed for none, so sending it would remove it from every node. Garbage
        # from the API server must not do that: the caller keeps what it had.
        raise UnusableError("spec.clusterIPs", f"no address in {quote(spec.cluster_ips)} can be read")
    return tuple(by_family.values())


def _ports(ports: list[ServicePortFields], problems: Problems) -> tuple[ServicePort, ...]:
    found: list[ServicePort] = []
    for index, port in enumerate(ports):
        field = f"spec.ports[{index}]"
        protocol = read_protocol(port.protocol, f"{field}.protocol", problems)
        if protocol is None:
            continue
        if port.port is None or not is_port(port.port):
            problems.append(Problem(f"{field}.port", f"{quote(port.port)} is not a port number; the port is ignored"))
            continue
        node_port = read_optional_port(port.node_port, f"{field}.nodePort", problems)
        found.append(ServicePort(port.name or "", protocol, port.port, node_port, port.app_protocol or ""))
    return tuple(found)


def _load_balancer_ips(ingress: list[Ingress], problems: Problems) -> tuple[LoadBalancerIP, ...]:
    """Entries with an address; nil ipMode is VIP. A mode that is not known is left alone, as kube-proxy does."""
    found: dict[LoadBalancerIP, None] = {}
    for index, entry in enumerate(ingress):
        field = f"status.loadBalancer.ingress[{index}]"
        if not entry.ip:
            continue
        if entry.ip_mode not in {None, "VIP", "Proxy"}:
            problems.append(Problem(f"{field}.ipMode", f"{quote(entry.ip_mode)} is not known; the IP is ignored"))
            continue
        address = read_address(entry.ip, f"{field}.ip", problems)
        if address is not None:
            mode = LoadBalancerMode.PROXY if entry.ip_mode == "Proxy" else LoadBalancerMode.VIP
            found[LoadBalancerIP(address, mode)] = None
    return tuple(found)


def _policy(text: str | None, field: str, problems: Problems) -> TrafficPolicy:
    """Local only when it says so, as in kube-proxy."""
    if text == "Local":
        return TrafficPolicy.LOCAL
    if text not in {None, "", "Cluster"}:
        problems.append(Problem(field, f"{quote(text)} is neither Cluster nor Local; taken as Cluster"))
    return TrafficPolicy.CLUSTER


def _affinity_timeout_seconds(spec: ServiceSpec, problems: Problems) -> int:
    if spec.session_affinity in {None, "", "None"}:
        return 0
    if spec.session_affinity != "ClientIP":
        problems.append(Problem("spec.sessionAffinity", f"{quote(spec.session_affinity)} is not known; none is used"))
        return 0
    config = spec.session_affinity_config.client_ip if spec.session_affinity_config else None
    seconds = config.timeout_seconds if config else None
    if seconds is None:
        return AFFINITY_TIMEOUT_SECONDS_DEFAULT
    if not 1 <= seconds <= AFFINITY_TIMEOUT_SECONDS_MAX:
        field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
        allowed = f"1..{AFFINITY_TIMEOUT_SECONDS_MAX}; {AFFINITY_TIMEOUT_SECONDS_DEFAULT} is used"
        problems.append(Problem(field, f"{quote(seconds)} is not within {allowed}"))
        return AFFINITY_TIMEOUT_SECONDS_DEFAULT
    return seconds


def _source_ranges(texts: list[str], problems: Problems) -> tuple[Prefix, ...]:
    """The ranges, never fewer restrictions than were written.

    Readers decide family by family and take "no range of this family" as "everybody". So a family that lost a
    malformed range and has no valid one left gets a range that nobody can come from: the Service stays closed there
    until its author repairs it. Which family a malformed text meant is judged by its separators; where that says
    nothing, both are closed.
    """
    found: list[Prefix] = []
    closed: list[Prefix] = []
    for index, text in enumerate(texts):
        try:
            found.append(parse_prefix(text))
        except ValueError as error:
            problems.append(Problem(f"spec.loadBalancerSourceRanges[{index}]", f"{error}; nobody is let in by it"))
            closed += _closed_for(text)
    families = {prefix.family for prefix in found}
    closed = [prefix for prefix in dict.fromkeys(closed) if prefix.family not in families]
    return (*found, *sorted(closed, key=lambda prefix: prefix.family))


def _closed_for(text: str) -> tuple[Prefix, ...]:
    if (":" in text) == ("." in text):
        return (NOBODY_IPV4, NOBODY_IPV6)
    return (NOBODY_IPV6,) if ":" in text else (NOBODY_IPV4,)
