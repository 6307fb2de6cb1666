# SPDX-License-Identifier: Apache-2.0
"""The small cluster: four Services in both families, and what kube-proxy computes names from."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from pointsman_enforcer.dataplane.nftables.message import Family
from support.nft_world import ADDRESSES, ECHO_PORT, Addresses

NODE_PORT = 30080
AFFINITY_SECONDS = 10800
MARK = "0x4000"


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeService:
    """One ServicePort of one family, as kube-proxy sees it; `ranges` empty: no source ranges."""

    name: str
    protocol: str
    cluster_ip: str
    port: int
    endpoints: tuple[str, ...]
    node_port: int = 0
    load_balancer: str = ""
    ranges: tuple[str, ...] = ()
    has_affinity: bool = False

    @property
    def full_name(self) -> str:
        return f"default/{self.name}:p{self.port}"

    def hash(self, endpoint: str = "") -> str:
        """The hash in names of chains."""
        digest = hashlib.sha256(f"{self.full_name}{self.protocol}{endpoint}".encode()).digest()
        return base64.b32encode(digest).decode()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeCluster:
    """One family's half of the cluster."""

    family: Family
    at: Addresses
    services: tuple[KubeService, ...]

    def place(self, address: str, port: int) -> str:
        """As rules write it."""
        return f"[{address}]:{port}" if self.family is Family.IPV6 else f"{address}:{port}"

    @property
    def host_bits(self) -> int:
        return self.family.address_bytes * 8


def cluster(family: Family) -> KubeCluster:
    """ClusterIP, NodePort and LoadBalancer with source ranges; UDP; session affinity; no endpoints."""
    at = ADDRESSES[family]
    base = at.cluster_ip.removesuffix("41")
    both = (at.pod1, at.pod2)
    web = KubeService(
        name="web", protocol="tcp", cluster_ip=at.cluster_ip, port=80, endpoints=both,
        node_port=NODE_PORT, load_balancer=at.load_balancer, ranges=(at.allowed,),
    )  # fmt: skip
    dns = KubeService(name="dns", protocol="udp", cluster_ip=f"{base}42", port=53, endpoints=both)
    sticky = KubeService(
        name="sticky", protocol="tcp", cluster_ip=f"{base}43", port=80, endpoints=both, has_affinity=True
    )
    empty = KubeService(name="empty", protocol="tcp", cluster_ip=f"{base}44", port=80, endpoints=())
    return KubeCluster(family=family, at=at, services=(web, dns, sticky, empty))


TARGET_PORT = ECHO_PORT
