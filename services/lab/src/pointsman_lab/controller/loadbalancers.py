# SPDX-License-Identifier: Apache-2.0
"""The lab's load balancer: addresses for Services of that type, and over which nodes they are reached. Pure."""

import ipaddress
from collections.abc import Iterable, Sequence

from pointsman_lab.controller.objects import Object, spec, status
from pointsman_lab.net.topology import LOAD_BALANCER_POOLS


def ingress_addresses(service: Object) -> tuple[str, ...]:
    """The load balancer addresses a Service has now."""
    entries = (status(service).get("loadBalancer") or {}).get("ingress") or ()
    return tuple(str(entry["ip"]) for entry in entries if isinstance(entry, dict) and _is_unicast(entry.get("ip")))


def _is_unicast(address: object) -> bool:
    """Whether it is text that a route can lead to; others may have written the status, or an external IP."""
    try:
        ip = ipaddress.ip_address(address) if isinstance(address, str) else None
    except ValueError:
        return False
    return ip is not None and not (ip.is_loopback or ip.is_multicast or ip.is_unspecified)


def has_outside_addresses(service: Object) -> bool:
    """Whether clients outside may reach it by an address that is no node's."""
    return bool(ingress_addresses(service) or spec(service).get("externalIPs") or is_ours(service))


def is_ours(service: Object) -> bool:
    """Whether the lab's load balancer serves it: the type fits and no other class is asked for."""
    return spec(service).get("type") == "LoadBalancer" and not spec(service).get("loadBalancerClass")


def plan_ingress(service: Object, in_use: Iterable[str]) -> Object | None:
    """The new `status.loadBalancer` of a Service, or None when it is right already.

    One address per family of the Service, from the pools; `spec.loadBalancerIP` is honoured for its family. A Service
    with a foreign class is left alone.
    """
    current = ingress_addresses(service)
    if not is_ours(service):
        lost_type = spec(service).get("type") != "LoadBalancer"
        return {} if lost_type and current else None
    wanted_versions = [6 if family == "IPv6" else 4 for family in spec(service).get("ipFamilies") or ("IPv4",)]
    have: dict[int, str] = {ipaddress.ip_address(ip).version: ip for ip in current}
    if sorted(have) == sorted(wanted_versions):
        return None
    taken = set(in_use)
    requested = spec(service).get("loadBalancerIP")
    entries = []
    for version in wanted_versions:
        address = have.get(version) or _pick(version, taken, requested)
        taken.add(address)
        entries.append({"ip": address, "ipMode": "VIP"})
    return {"ingress": entries}


def _pick(version: int, taken: set[str], requested: str | None) -> str:
    if requested and ipaddress.ip_address(requested).version == version:
        return str(requested)
    pool = next(network for network in map(ipaddress.ip_network, LOAD_BALANCER_POOLS) if network.version == version)
    for offset in range(1, min(pool.num_addresses - 1, 65536)):
        if (address := str(pool[offset])) not in taken:
            return address
    raise ValueError(f"the load balancer pool {pool} is exhausted")


def outside_routes(
    services: Iterable[Object], slices: Sequence[Object], nodes: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Over which nodes each load balancer and external address is reached from outside.

    All nodes; for external traffic policy Local those with a ready endpoint. When that leaves none, all again, as a
    balancer does whose targets all fail their health check.
    """
    routes: dict[str, tuple[str, ...]] = {}
    for service in services:
        external = (ip for ip in spec(service).get("externalIPs") or () if _is_unicast(ip))
        addresses = (*ingress_addresses(service), *external)
        if not addresses:
            continue
        via = tuple(nodes)
        if spec(service).get("externalTrafficPolicy") == "Local":
            via = _local_nodes(service, slices, nodes) or via
        for address in addresses:
            routes.setdefault(str(address), via)
    return routes


def _local_nodes(service: Object, slices: Sequence[Object], nodes: Sequence[str]) -> tuple[str, ...]:
    metadata = service["metadata"]
    ready = {
        endpoint.get("nodeName")
        for slice_ in slices
        if slice_["metadata"].get("namespace") == metadata.get("namespace")
        and (slice_["metadata"].get("labels") or {}).get("kubernetes.io/service-name") == metadata["name"]
        for endpoint in slice_.get("endpoints") or ()
        if endpoint.get("conditions", {}).get("ready") is not False
    }
    return tuple(node for node in nodes if node in ready)
