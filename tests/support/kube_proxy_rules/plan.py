# SPDX-License-Identifier: Apache-2.0
"""The same Services as a plan of ours."""

from __future__ import annotations

from pointsman_enforcer.dataplane.node_settings import NodeSettings
from pointsman_model.names import Family, Protocol, ServiceKey, parse_address, parse_prefix
from pointsman_model.plan import (
    REJECT,
    Action,
    Frontend,
    FrontendKind,
    NodeFacts,
    NodePlan,
    PlanEndpoint,
    ServicePlan,
    ServicePortPlan,
    Verdict,
)
from support.kube_proxy_rules.cluster import AFFINITY_SECONDS, TARGET_PORT, KubeCluster, KubeService

_PLAIN, _MASQUERADED = Verdict(Action.FORWARD), Verdict(Action.FORWARD, 0, masquerade=True)
_PROTOCOLS = {"tcp": Protocol.TCP, "udp": Protocol.UDP}


def node_settings(clusters: list[KubeCluster]) -> NodeSettings:
    """Pods are told by their addresses, as in kube-proxy's rules."""
    return NodeSettings(cluster_cidrs=tuple(parse_prefix(each.at.pods) for each in clusters))


def node_plan(clusters: list[KubeCluster]) -> NodePlan:
    """Everything the node must do."""
    facts = NodeFacts(
        name="node-1",
        addresses=tuple(parse_address(each.at.node) for each in clusters),
        service_cidrs=tuple(sorted(parse_prefix(each.at.service_cidr) for each in clusters)),
    )
    names = [service.name for service in clusters[0].services]
    return NodePlan(facts=facts, services={ServiceKey("default", name): _service(name, clusters) for name in names})


def _service(name: str, clusters: list[KubeCluster]) -> ServicePlan:
    mine = [(each, next(one for one in each.services if one.name == name)) for each in clusters]
    return ServicePlan(
        ports=tuple(_port(cluster, service) for cluster, service in mine),
        affinity_timeout_seconds=AFFINITY_SECONDS if mine[0][1].has_affinity else 0,
    )


def _port(cluster: KubeCluster, service: KubeService) -> ServicePortPlan:
    chosen = tuple(sorted(PlanEndpoint(parse_address(each), TARGET_PORT, hairpin=True) for each in service.endpoints))
    inside = (_PLAIN, _MASQUERADED, _MASQUERADED) if chosen else (REJECT,) * 3
    outside = (_MASQUERADED,) * 3
    frontends = [Frontend(FrontendKind.CLUSTER_IP, parse_address(service.cluster_ip), service.port, *inside)]
    if service.load_balancer:
        address, ranges = parse_address(service.load_balancer), tuple(map(parse_prefix, service.ranges))
        frontends.append(Frontend(FrontendKind.LOAD_BALANCER_IP, address, service.port, *outside, ranges))
    if service.node_port:
        frontends.append(Frontend(FrontendKind.NODE_PORT, b"", service.node_port, *outside))
    return ServicePortPlan(
        name=f"p{service.port}",
        protocol=_PROTOCOLS[service.protocol],
        family=Family.IPV4 if cluster.family.keyword == "ip" else Family.IPV6,
        frontends=tuple(sorted(frontends)),
        endpoint_sets=(chosen,) if chosen else (),
    )
