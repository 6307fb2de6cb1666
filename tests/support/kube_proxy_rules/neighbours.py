# SPDX-License-Identifier: Apache-2.0
"""Input of iptables-restore: what others have beside kube-proxy, some of it under names that look like its own."""

from __future__ import annotations

from pointsman_enforcer.dataplane.nftables.message import Family
from support.kube_proxy_rules.cluster import KubeCluster


def neighbour_rules(cluster: KubeCluster) -> str:
    """A kubelet, two CNI plugins, a container runtime's host ports, and an administrator."""
    at = cluster.at
    loopback = "127.0.0.0/8" if cluster.family is Family.IPV4 else "::1/128"
    target = cluster.place(at.pod, 8080)
    return f"""*mangle
:KUBE-IPTABLES-HINT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
COMMIT
*nat
:KUBE-KUBELET-CANARY - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:CNI-DN-0123456789abcdef01234 - [0:0]
:CNI-HOSTPORT-SETMARK - [0:0]
:CNI-HOSTPORT-MASQ - [0:0]
:KUBE-HOSTPORTS - [0:0]
:KUBE-HP-ABCDEFGHIJKLMNOP - [0:0]
:FLANNEL-POSTRTG - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A PREROUTING -m comment --comment "kube hostport portals" -m addrtype --dst-type LOCAL -j KUBE-HOSTPORTS
-A POSTROUTING -m comment --comment "CNI portfwd requiring masquerade" -j CNI-HOSTPORT-MASQ
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A CNI-HOSTPORT-DNAT -p tcp -m tcp --dport 9090 -j CNI-DN-0123456789abcdef01234
-A CNI-DN-0123456789abcdef01234 -s {at.pods} -p tcp -m tcp --dport 9090 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-0123456789abcdef01234 -p tcp -m tcp --dport 9090 -j DNAT --to-destination {target}
-A CNI-HOSTPORT-SETMARK -j MARK --set-xmark 0x2000/0x2000
-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE
-A KUBE-HOSTPORTS -p tcp -m comment --comment "pod hostport 9091" -m tcp --dport 9091 -j KUBE-HP-ABCDEFGHIJKLMNOP
-A KUBE-HP-ABCDEFGHIJKLMNOP -p tcp -m tcp --dport 9091 -j DNAT --to-destination {target}
-A FLANNEL-POSTRTG -s {at.pods} -d {at.pods} -m comment --comment "flanneld masq" -j RETURN
COMMIT
*filter
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-FIREWALL - [0:0]
:FLANNEL-FWD - [0:0]
-A INPUT -j KUBE-FIREWALL
-A INPUT -p tcp -m tcp --dport 2323 -m comment --comment "an administrator who mentions -j KUBE-SERVICES" -j DROP
-A OUTPUT -j KUBE-FIREWALL
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A KUBE-FIREWALL ! -s {loopback} -d {loopback} -m comment --comment "block incoming localnet connections" \
-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A FLANNEL-FWD -s {at.pods} -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d {at.pods} -m comment --comment "flanneld forward" -j ACCEPT
COMMIT
"""
