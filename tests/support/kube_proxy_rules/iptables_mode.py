# SPDX-License-Identifier: Apache-2.0
"""Input of iptables-restore: what kube-proxy in iptables mode has in the kernel."""

from __future__ import annotations

from collections.abc import Iterator

from pointsman_enforcer.dataplane.nftables.message import Family
from support.kube_proxy_rules.cluster import AFFINITY_SECONDS, MARK, TARGET_PORT, KubeCluster, KubeService

_NEW = "-m conntrack --ctstate NEW "
_FILTER_JUMPS = (
    ("INPUT", _NEW, "kubernetes load balancer firewall", "KUBE-PROXY-FIREWALL"),
    ("INPUT", "", "kubernetes health check service ports", "KUBE-NODEPORTS"),
    ("INPUT", _NEW, "kubernetes externally-visible service portals", "KUBE-EXTERNAL-SERVICES"),
    ("FORWARD", _NEW, "kubernetes load balancer firewall", "KUBE-PROXY-FIREWALL"),
    ("FORWARD", "", "kubernetes forwarding rules", "KUBE-FORWARD"),
    ("FORWARD", _NEW, "kubernetes service portals", "KUBE-SERVICES"),
    ("FORWARD", _NEW, "kubernetes externally-visible service portals", "KUBE-EXTERNAL-SERVICES"),
    ("OUTPUT", _NEW, "kubernetes load balancer firewall", "KUBE-PROXY-FIREWALL"),
    ("OUTPUT", _NEW, "kubernetes service portals", "KUBE-SERVICES"),
)
_NAT_JUMPS = (
    ("PREROUTING", "", "kubernetes service portals", "KUBE-SERVICES"),
    ("OUTPUT", "", "kubernetes service portals", "KUBE-SERVICES"),
    ("POSTROUTING", "", "kubernetes postrouting rules", "KUBE-POSTROUTING"),
)
_FILTER_CHAINS = (
    *("KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD", "KUBE-NODEPORTS"),
    *("KUBE-PROXY-FIREWALL", "KUBE-PROXY-CANARY"),
)
_NAT_CHAINS = ("KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ", "KUBE-PROXY-CANARY")


def iptables_rules(cluster: KubeCluster) -> str:
    """All tables of one family."""
    parts = [
        *("*mangle", ":KUBE-PROXY-CANARY - [0:0]", "COMMIT"),
        *("*filter", *(f":{name} - [0:0]" for name in _FILTER_CHAINS), *_jumps(_FILTER_JUMPS)),
        *(f"-A {rule}" for rule in _filter(cluster)),
        "COMMIT",
    ]
    rules = list(_nat(cluster))
    names = dict.fromkeys((*_NAT_CHAINS, *(rule.split(" ", 1)[0] for rule in rules)))
    parts += ["*nat", *(f":{name} - [0:0]" for name in names), *_jumps(_NAT_JUMPS), *(f"-A {rule}" for rule in rules)]
    return "\n".join([*parts, "COMMIT"]) + "\n"


def _jumps(jumps: tuple[tuple[str, str, str, str], ...]) -> Iterator[str]:
    """Put in front of what others have, last one first, so that they stand in this order."""
    for chain, match, words, target in reversed(jumps):
        yield f'-I {chain} 1 {match}-m comment --comment "{words}" -j {target}'


def _to(cluster: KubeCluster, address: str, service: KubeService, words: str) -> str:
    return (
        f"-d {address}/{cluster.host_bits} -p {service.protocol} {_says(words)} "
        f"-m {service.protocol} --dport {service.port}"
    )


def _says(words: str) -> str:
    return f'-m comment --comment "{words}"'


def _filter(cluster: KubeCluster) -> Iterator[str]:
    reject = "icmp-port-unreachable" if cluster.family is Family.IPV4 else "icmp6-port-unreachable"
    yield "KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP"
    yield f"KUBE-FORWARD {_says('kubernetes forwarding rules')} -m mark --mark {MARK}/{MARK} -j ACCEPT"
    yield (
        f"KUBE-FORWARD {_says('kubernetes forwarding conntrack rule')} "
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    )
    for service in cluster.services:
        name = service.full_name
        if not service.endpoints:
            to = _to(cluster, service.cluster_ip, service, f"{name} has no endpoints")
            yield f"KUBE-SERVICES {to} -j REJECT --reject-with {reject}"
        if service.ranges:
            words = f"{name} traffic not accepted by KUBE-FW-{service.hash()}"
            yield f"KUBE-PROXY-FIREWALL {_to(cluster, service.load_balancer, service, words)} -j DROP"


def _nat(cluster: KubeCluster) -> Iterator[str]:
    yield f"KUBE-POSTROUTING -m mark ! --mark {MARK}/{MARK} -j RETURN"
    yield f"KUBE-POSTROUTING -j MARK --xor-mark {MARK}"
    yield f"KUBE-POSTROUTING {_says('kubernetes service traffic requiring SNAT')} -j MASQUERADE --random-fully"
    yield f"KUBE-MARK-MASQ -j MARK --or-mark {MARK}"
    for service in cluster.services:
        if service.endpoints:
            yield from _dispatch(cluster, service)
            yield from _choice(cluster, service)
            for endpoint in service.endpoints:
                yield from _endpoint(cluster, service, endpoint)
    words = "kubernetes service nodeports; NOTE: this must be the last rule in this chain"
    yield f"KUBE-SERVICES {_says(words)} -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"


def _dispatch(cluster: KubeCluster, service: KubeService) -> Iterator[str]:
    name, tail = service.full_name, service.hash()
    to_cluster_ip = _to(cluster, service.cluster_ip, service, f"{name} cluster IP")
    yield f"KUBE-SERVICES {to_cluster_ip} -j KUBE-SVC-{tail}"
    yield f"KUBE-SVC-{tail} ! -s {cluster.at.pods} {to_cluster_ip} -j KUBE-MARK-MASQ"
    if service.node_port:
        yield f"KUBE-EXT-{tail} {_says(f'masquerade traffic for {name} external destinations')} -j KUBE-MARK-MASQ"
        yield f"KUBE-EXT-{tail} -j KUBE-SVC-{tail}"
        port = f"-p {service.protocol} {_says(name)} -m {service.protocol} --dport {service.node_port}"
        yield f"KUBE-NODEPORTS {port} -j KUBE-EXT-{tail}"
    if service.load_balancer:
        to = _to(cluster, service.load_balancer, service, f"{name} loadbalancer IP")
        yield f"KUBE-SERVICES {to} -j KUBE-FW-{tail}"
        for each in service.ranges:
            yield f"KUBE-FW-{tail} -s {each} {_says(f'{name} loadbalancer IP')} -j KUBE-EXT-{tail}"
        yield f"KUBE-FW-{tail} {_says(f'other traffic to {name} will be dropped by KUBE-PROXY-FIREWALL')}"


def _choice(cluster: KubeCluster, service: KubeService) -> Iterator[str]:
    chain = f"KUBE-SVC-{service.hash()}"
    chains = [f"KUBE-SEP-{service.hash(cluster.place(each, TARGET_PORT))}" for each in service.endpoints]
    words = [_says(f"{service.full_name} -> {cluster.place(each, TARGET_PORT)}") for each in service.endpoints]
    if service.has_affinity:
        for target, says in zip(chains, words, strict=True):
            known = f"-m recent --rcheck --seconds {AFFINITY_SECONDS} --reap --name {target} --rsource"
            yield f"{chain} {says} {known} -j {target}"
    for number, (target, says) in enumerate(zip(chains, words, strict=True)):
        left = len(chains) - number
        chance = f" -m statistic --mode random --probability {1 / left:.10f}" if left > 1 else ""
        yield f"{chain} {says}{chance} -j {target}"


def _endpoint(cluster: KubeCluster, service: KubeService, endpoint: str) -> Iterator[str]:
    place = cluster.place(endpoint, TARGET_PORT)
    chain, says = f"KUBE-SEP-{service.hash(place)}", _says(service.full_name)
    yield f"{chain} -s {endpoint}/{cluster.host_bits} {says} -j KUBE-MARK-MASQ"
    known = f" -m recent --set --name {chain} --rsource" if service.has_affinity else ""
    protocol = f"-p {service.protocol}"
    yield f"{chain} {protocol} {says}{known} -m {service.protocol} -j DNAT --to-destination {place}"
