# SPDX-License-Identifier: Apache-2.0
"""Input of nft: what kube-proxy in nftables mode has in the kernel."""

from __future__ import annotations

from collections.abc import Iterator

from pointsman_enforcer.dataplane.nftables.message import Family
from support.kube_proxy_rules.cluster import AFFINITY_SECONDS, MARK, TARGET_PORT, KubeCluster, KubeService

_BASE = (
    ("filter-prerouting", "filter hook prerouting priority -110"),
    ("filter-input", "filter hook input priority -110"),
    ("filter-forward", "filter hook forward priority -110"),
    ("filter-output", "filter hook output priority -110"),
    ("filter-output-post-dnat", "filter hook output priority -90"),
    ("nat-prerouting", "nat hook prerouting priority -100"),
    ("nat-output", "nat hook output priority -100"),
    ("nat-postrouting", "nat hook postrouting priority 100"),
)
_PLAIN = (
    *("services", "masquerading", "mark-for-masquerade", "reject-chain", "firewall-check", "cluster-ips-check"),
    *("service-endpoints-check", "nodeport-endpoints-check"),
)
_JUMPS = (
    ("filter-prerouting", "ct state new", "firewall-check"),
    ("filter-input", "ct state new", "nodeport-endpoints-check"),
    ("filter-input", "ct state new", "service-endpoints-check"),
    ("filter-forward", "ct state new", "service-endpoints-check"),
    ("filter-forward", "ct state new", "cluster-ips-check"),
    ("filter-output", "ct state new", "service-endpoints-check"),
    ("filter-output", "ct state new", "firewall-check"),
    ("filter-output-post-dnat", "ct state new", "cluster-ips-check"),
    ("nat-prerouting", "", "services"),
    ("nat-output", "", "services"),
    ("nat-postrouting", "", "masquerading"),
)


def nftables_rules(cluster: KubeCluster) -> str:
    """The table of one family."""
    table = f"{_ip(cluster)} kube-proxy"
    lines = [f'add table {table} {{ comment "rules for kube-proxy" ; }}']
    lines += [f"add chain {table} {name} {{ type {of} ; }}" for name, of in _BASE]
    lines += [f"add chain {table} {name}" for name in _PLAIN]
    lines += [f"add rule {table} {chain} {match} jump {to}" for chain, match, to in _JUMPS]
    lines += [f"add {kind} {table} {rest}" for kind, rest in (*_sets(cluster), *_static(cluster))]
    for service in cluster.services:
        lines += [f"add {kind} {table} {rest}" for kind, rest in _service(cluster, service)]
    return "\n".join(lines) + "\n"


def _ip(cluster: KubeCluster) -> str:
    return "ip" if cluster.family is Family.IPV4 else "ip6"


def _sets(cluster: KubeCluster) -> Iterator[tuple[str, str]]:
    address = "ipv4_addr" if cluster.family is Family.IPV4 else "ipv6_addr"
    place, port = f"{address} . inet_proto . inet_service", "inet_proto . inet_service"
    yield "set", f'cluster-ips {{ type {address} ; comment "Active ClusterIPs" ; }}'
    yield "set", f'nodeport-ips {{ type {address} ; comment "IPs that accept NodePort traffic" ; }}'
    for name, key in (("service-ips", place), ("no-endpoint-services", place), ("firewall-ips", place)):
        yield "map", f"{name} {{ type {key} : verdict ; }}"
    for name in ("service-nodeports", "no-endpoint-nodeports"):
        yield "map", f"{name} {{ type {port} : verdict ; }}"


def _static(cluster: KubeCluster) -> Iterator[tuple[str, str]]:
    ip, at = _ip(cluster), cluster.at
    frontend = f"{ip} daddr . meta l4proto . th dport"
    yield "rule", f"mark-for-masquerade mark set mark or {MARK}"
    yield "rule", f"masquerading mark and {MARK} == 0 return"
    yield "rule", f"masquerading mark set mark xor {MARK}"
    yield "rule", "masquerading masquerade fully-random"
    yield "rule", "reject-chain reject"
    yield "rule", f"service-endpoints-check {frontend} vmap @no-endpoint-services"
    yield (
        "rule",
        f"nodeport-endpoints-check {ip} daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports",
    )
    yield "rule", f"firewall-check {frontend} vmap @firewall-ips"
    yield (
        "rule",
        f'cluster-ips-check {ip} daddr @cluster-ips reject comment "Reject traffic to invalid ports of ClusterIPs"',
    )
    yield (
        "rule",
        f'cluster-ips-check {ip} daddr {{ {at.service_cidr} }} drop comment "Drop traffic to unallocated ClusterIPs"',
    )
    yield "rule", f"services {frontend} vmap @service-ips"
    yield "rule", f"services {ip} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports"
    yield "element", f"nodeport-ips {{ {at.node} }}"


def _service(cluster: KubeCluster, service: KubeService) -> Iterator[tuple[str, str]]:
    ip, name, protocol = _ip(cluster), service.full_name, service.protocol
    base = f"{service.hash()[:8]}-default/{service.name}/{protocol}/p{service.port}"
    key = f"{service.cluster_ip} . {protocol} . {service.port}"
    yield "element", f"cluster-ips {{ {service.cluster_ip} }}"
    if not service.endpoints:
        yield "element", f'no-endpoint-services {{ {key} comment "{name}" : goto reject-chain }}'
        return
    yield "chain", f"service-{base}"
    yield (
        "rule",
        (
            f"service-{base} {ip} daddr {service.cluster_ip} {protocol} dport {service.port} "
            f"{ip} saddr != {cluster.at.pods} jump mark-for-masquerade"
        ),
    )
    chains = list(_endpoint_names(cluster, service))
    for endpoint, (chain, memory) in zip(service.endpoints, chains, strict=True):
        yield from _endpoint(cluster, service, endpoint, chain, memory)
    if service.has_affinity:
        for chain, memory in chains:
            yield "rule", f"service-{base} {ip} saddr @{memory} goto {chain}"
    slots = " , ".join(f"{number} : goto {chain}" for number, (chain, _) in enumerate(chains))
    yield "rule", f"service-{base} numgen random mod {len(chains)} vmap {{ {slots} }}"
    yield "element", f"service-ips {{ {key} : goto service-{base} }}"
    if service.node_port:
        yield from _external(cluster, service, base)


def _external(cluster: KubeCluster, service: KubeService, base: str) -> Iterator[tuple[str, str]]:
    ip, protocol = _ip(cluster), service.protocol
    place = f"{service.load_balancer} . {protocol} . {service.port}"
    yield "chain", f"external-{base}"
    yield "rule", f"external-{base} jump mark-for-masquerade"
    yield "rule", f"external-{base} goto service-{base}"
    yield "element", f"service-nodeports {{ {protocol} . {service.node_port} : goto external-{base} }}"
    yield "element", f"service-ips {{ {place} : goto external-{base} }}"
    yield "chain", f"firewall-{base}"
    yield "rule", f"firewall-{base} {ip} saddr != {{ {', '.join(service.ranges)} }} drop"
    yield "element", f'firewall-ips {{ {place} comment "{service.full_name}" : goto firewall-{base} }}'


def _endpoint_names(cluster: KubeCluster, service: KubeService) -> Iterator[tuple[str, str]]:
    for endpoint in service.endpoints:
        tail = service.hash(cluster.place(endpoint, TARGET_PORT))[:8]
        written = endpoint.replace(":", ".")
        rest = f"{tail}-default/{service.name}/{service.protocol}/p{service.port}__{written}/{TARGET_PORT}"
        yield f"endpoint-{rest}", f"affinity-{rest}"


def _endpoint(
    cluster: KubeCluster, service: KubeService, endpoint: str, chain: str, memory: str
) -> Iterator[tuple[str, str]]:
    ip = _ip(cluster)
    address = "ipv4_addr" if cluster.family is Family.IPV4 else "ipv6_addr"
    yield "chain", chain
    if service.has_affinity:
        yield "set", f"{memory} {{ type {address} ; flags dynamic,timeout ; timeout {AFFINITY_SECONDS}s ; }}"
    yield "rule", f"{chain} {ip} saddr {endpoint} jump mark-for-masquerade"
    if service.has_affinity:
        yield "rule", f"{chain} update @{memory} {{ {ip} saddr }}"
    yield "rule", f"{chain} meta l4proto {service.protocol} dnat to {cluster.place(endpoint, TARGET_PORT)}"
