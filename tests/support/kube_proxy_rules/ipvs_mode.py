# SPDX-License-Identifier: Apache-2.0
"""What kube-proxy in ipvs mode has in the kernel: input of iptables-restore, ipset, ipvsadm and ip."""

from __future__ import annotations

from collections.abc import Iterator

from pointsman_enforcer.dataplane.nftables.message import Family
from support.kube_proxy_rules.cluster import AFFINITY_SECONDS, MARK, TARGET_PORT, KubeCluster, KubeService

SYSCTLS = {
    "net.ipv4.vs.conntrack": 1,
    "net.ipv4.vs.expire_nodest_conn": 1,
    "net.ipv4.vs.expire_quiescent_template": 1,
    "net.ipv4.ip_forward": 1,
}
TIMEOUTS_SECONDS = (900, 5, 20)
"""tcpTimeout, tcpFinTimeout and udpTimeout: a test sees connections end, and no flow ends while the machine stalls."""
_SETS = {
    "KUBE-LOOP-BACK": "hash:ip,port,ip", "KUBE-CLUSTER-IP": "hash:ip,port", "KUBE-EXTERNAL-IP": "hash:ip,port",
    "KUBE-EXTERNAL-IP-LOCAL": "hash:ip,port", "KUBE-LOAD-BALANCER": "hash:ip,port",
    "KUBE-LOAD-BALANCER-FW": "hash:ip,port", "KUBE-LOAD-BALANCER-LOCAL": "hash:ip,port",
    "KUBE-LOAD-BALANCER-SOURCE-IP": "hash:ip,port,ip", "KUBE-LOAD-BALANCER-SOURCE-CIDR": "hash:ip,port,net",
    "KUBE-NODE-PORT-TCP": "bitmap:port", "KUBE-NODE-PORT-LOCAL-TCP": "bitmap:port",
    "KUBE-NODE-PORT-UDP": "bitmap:port", "KUBE-NODE-PORT-LOCAL-UDP": "bitmap:port",
    "KUBE-NODE-PORT-SCTP-HASH": "hash:ip,port", "KUBE-NODE-PORT-LOCAL-SCTP-HASH": "hash:ip,port",
    "KUBE-HEALTH-CHECK-NODE-PORT": "bitmap:port", "KUBE-IPVS-IPS": "hash:ip",
}  # fmt: skip
_JUMPS = {
    "nat": (
        ("OUTPUT", "kubernetes service portals", "KUBE-SERVICES"),
        ("PREROUTING", "kubernetes service portals", "KUBE-SERVICES"),
        ("POSTROUTING", "kubernetes postrouting rules", "KUBE-POSTROUTING"),
    ),
    "filter": (
        ("FORWARD", "kubernetes forwarding rules", "KUBE-FORWARD"),
        ("INPUT", "kubernetes health check rules", "KUBE-NODE-PORT"),
        ("INPUT", "kube-proxy firewall rules", "KUBE-PROXY-FIREWALL"),
        ("FORWARD", "kube-proxy firewall rules", "KUBE-PROXY-FIREWALL"),
        ("INPUT", "kubernetes ipvs access filter", "KUBE-IPVS-FILTER"),
        ("OUTPUT", "kubernetes ipvs access filter", "KUBE-IPVS-OUT-FILTER"),
    ),
}
_CHAINS = {
    "nat": ("KUBE-SERVICES", "KUBE-POSTROUTING", "KUBE-NODE-PORT", "KUBE-LOAD-BALANCER", "KUBE-MARK-MASQ"),
    "filter": (
        *("KUBE-FORWARD", "KUBE-NODE-PORT", "KUBE-PROXY-FIREWALL", "KUBE-SOURCE-RANGES-FIREWALL"),
        *("KUBE-IPVS-FILTER", "KUBE-IPVS-OUT-FILTER"),
    ),
}


def set_name(cluster: KubeCluster, name: str) -> str:
    return name if cluster.family is Family.IPV4 else name.replace("KUBE-", "KUBE-6-", 1)[:31]


def ipset_commands(cluster: KubeCluster) -> str:
    """Input of `ipset restore`."""
    word = "inet" if cluster.family is Family.IPV4 else "inet6"
    lines = []
    for name, of in _SETS.items():
        options = "range 0-65535" if of == "bitmap:port" else f"family {word} hashsize 1024 maxelem 65536"
        lines.append(f"create {set_name(cluster, name)} {of} {options}")
    lines += [f"add {set_name(cluster, name)} {element}" for name, element in _elements(cluster)]
    return "\n".join(lines) + "\n"


def ip_commands(cluster: KubeCluster) -> str:
    """Input of `ip -batch`: addresses of kube-ipvs0, which must be there."""
    addresses = dict.fromkeys(
        address for each in cluster.services for address in (each.cluster_ip, each.load_balancer) if address
    )
    extra = " nodad" if cluster.family is Family.IPV6 else ""
    return "".join(f"address add {each}/{cluster.host_bits} dev kube-ipvs0{extra}\n" for each in addresses)


def ipvsadm_rules(cluster: KubeCluster) -> str:
    """Input of `ipvsadm --restore`."""
    lines = []
    for service in cluster.services:
        flag = "-u" if service.protocol == "udp" else "-t"
        persistence = f" -p {AFFINITY_SECONDS}" if service.has_affinity else ""
        for place in _places(cluster, service):
            lines.append(f"-A {flag} {place} -s rr{persistence}")
            lines += [f"-a {flag} {place} -r {cluster.place(each, TARGET_PORT)} -m -w 1" for each in service.endpoints]
    return "\n".join(lines) + "\n"


def ipvs_rules(cluster: KubeCluster) -> str:
    """Input of iptables-restore."""
    parts = ["*mangle", ":KUBE-PROXY-CANARY - [0:0]", "COMMIT"]
    for table, rules in (("nat", list(_nat(cluster))), ("filter", list(_filter(cluster)))):
        parts += [f"*{table}", *(f":{name} - [0:0]" for name in (*_CHAINS[table], "KUBE-PROXY-CANARY"))]
        parts += [f'-I {chain} 1 -m comment --comment "{words}" -j {to}' for chain, words, to in _JUMPS[table]]
        parts += [*(f"-A {rule}" for rule in rules), "COMMIT"]
    return "\n".join(parts) + "\n"


def _places(cluster: KubeCluster, service: KubeService) -> Iterator[str]:
    yield cluster.place(service.cluster_ip, service.port)
    if service.load_balancer:
        yield cluster.place(service.load_balancer, service.port)
    if service.node_port:
        for address in (cluster.at.node, cluster.at.uplink):
            yield cluster.place(address, service.node_port)


def _elements(cluster: KubeCluster) -> Iterator[tuple[str, str]]:
    for service in cluster.services:
        yield "KUBE-IPVS-IPS", service.cluster_ip
        yield "KUBE-CLUSTER-IP", f"{service.cluster_ip},{service.protocol}:{service.port}"
        if service.load_balancer:
            place = f"{service.load_balancer},{service.protocol}:{service.port}"
            yield "KUBE-IPVS-IPS", service.load_balancer
            yield "KUBE-LOAD-BALANCER", place
            yield "KUBE-LOAD-BALANCER-FW", place
            for each in service.ranges:
                yield "KUBE-LOAD-BALANCER-SOURCE-CIDR", f"{place},{each}"
        if service.node_port:
            yield "KUBE-NODE-PORT-TCP", str(service.node_port)
    for protocol in ("tcp", "udp"):
        for endpoint in (cluster.at.pod1, cluster.at.pod2):
            yield "KUBE-LOOP-BACK", f"{endpoint},{protocol}:{TARGET_PORT},{endpoint}"


def _in(cluster: KubeCluster, name: str, where: str) -> str:
    return f"-m set --match-set {set_name(cluster, name)} {where}"


def _nat(cluster: KubeCluster) -> Iterator[str]:
    loopback = "127.0.0.0/8" if cluster.family is Family.IPV4 else "::1/128"
    cluster_ip = _in(cluster, "KUBE-CLUSTER-IP", "dst,dst")
    load_balancer = _in(cluster, "KUBE-LOAD-BALANCER", "dst,dst")
    yield f"KUBE-SERVICES -s {loopback} -j RETURN"
    yield f'KUBE-SERVICES -m comment --comment "Kubernetes service lb portal" {load_balancer} -j KUBE-LOAD-BALANCER'
    words = "Kubernetes service cluster ip + port for masquerade purpose"
    yield f'KUBE-SERVICES ! -s {cluster.at.pods} -m comment --comment "{words}" {cluster_ip} -j KUBE-MARK-MASQ'
    yield "KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT"
    yield f"KUBE-SERVICES {cluster_ip} -j ACCEPT"
    yield f"KUBE-SERVICES {load_balancer} -j ACCEPT"
    yield "KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ"
    yield f"KUBE-NODE-PORT -p tcp {_in(cluster, 'KUBE-NODE-PORT-TCP', 'dst')} -j KUBE-MARK-MASQ"
    yield f"KUBE-POSTROUTING {_in(cluster, 'KUBE-LOOP-BACK', 'dst,dst,src')} -j MASQUERADE"
    yield f"KUBE-POSTROUTING -m mark ! --mark {MARK}/{MARK} -j RETURN"
    yield f"KUBE-POSTROUTING -j MARK --xor-mark {MARK}"
    words = "kubernetes service traffic requiring SNAT"
    yield f'KUBE-POSTROUTING -m comment --comment "{words}" -j MASQUERADE --random-fully'
    yield f"KUBE-MARK-MASQ -j MARK --or-mark {MARK}"


def _filter(cluster: KubeCluster) -> Iterator[str]:
    yield f"KUBE-PROXY-FIREWALL {_in(cluster, 'KUBE-LOAD-BALANCER-FW', 'dst,dst')} -j KUBE-SOURCE-RANGES-FIREWALL"
    for name in ("KUBE-LOAD-BALANCER-SOURCE-CIDR", "KUBE-LOAD-BALANCER-SOURCE-IP"):
        yield f"KUBE-SOURCE-RANGES-FIREWALL {_in(cluster, name, 'dst,dst,src')} -j RETURN"
    yield "KUBE-SOURCE-RANGES-FIREWALL -j DROP"
    yield f'KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark {MARK}/{MARK} -j ACCEPT'
    yield (
        'KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" '
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    )
    yield f"KUBE-NODE-PORT {_in(cluster, 'KUBE-HEALTH-CHECK-NODE-PORT', 'dst')} -j ACCEPT"
    for name in ("KUBE-LOAD-BALANCER", "KUBE-CLUSTER-IP", "KUBE-EXTERNAL-IP", "KUBE-EXTERNAL-IP-LOCAL"):
        yield f"KUBE-IPVS-FILTER {_in(cluster, name, 'dst,dst')} -j RETURN"
    yield f"KUBE-IPVS-FILTER {_in(cluster, 'KUBE-HEALTH-CHECK-NODE-PORT', 'dst')} -j RETURN"
    yield f"KUBE-IPVS-FILTER -m conntrack --ctstate NEW {_in(cluster, 'KUBE-IPVS-IPS', 'dst')} -j REJECT"
