# SPDX-License-Identifier: Apache-2.0
"""What the kernels of a lab's nodes hold, read with stock nft, and what the API says they should hold."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from pointsman_lab.apiserver.resources import ENDPOINTSLICES, SERVICES

if TYPE_CHECKING:
    from pointsman_lab.cluster import Cluster

Frontend = tuple[str, str, int]
"""Address, protocol in lower case, port."""
Endpoints = dict[Frontend, frozenset[tuple[str, int]]]

_LOCAL_SLOTS = 65536
"""Slots from here on hold the endpoints of this node once more."""
_TABLES = (("ip", "pointsman"), ("ip6", "pointsman"))
_GENERATION = """
import socket, struct
kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
kernel.bind((0, 0))
kernel.send(struct.pack("=IHHII4x", 20, (10 << 8) | 16, 1, 1, 0))
print(struct.unpack(">I", kernel.recv(4096)[24:28])[0])
"""


async def endpoints_in_kernel(cluster: Cluster, node: str) -> Endpoints:
    """The endpoints that a node's kernel chooses from, by service address."""
    found: dict[Frontend, set[tuple[str, int]]] = {}
    for family, table in _TABLES:
        listing = json.loads(await cluster.node_exec(node, "nft", "-j", "list", "map", family, table, "endpoints"))
        (shown,) = [entry["map"] for entry in listing["nftables"] if "map" in entry]
        for key, value in shown.get("elem", ()):
            ip, protocol, port, slot = key["concat"]
            if slot < _LOCAL_SLOTS:
                found.setdefault((ip, protocol, port), set()).add(tuple(value["concat"]))
    return {key: frozenset(value) for key, value in found.items()}


async def endpoints_by_api(cluster: Cluster) -> Endpoints:
    """The ready endpoints of every cluster IP as the API server has them, for Services without hints and policies.

    Written from the API's documentation and not from Pointsman's code.
    """
    services = (await cluster.api.list(SERVICES))["items"]
    slices = (await cluster.api.list(ENDPOINTSLICES))["items"]
    wanted: dict[Frontend, set[tuple[str, int]]] = {}
    for service in services:
        metadata, spec = service["metadata"], service["spec"]
        for ip in spec.get("clusterIPs") or ():
            for port in spec.get("ports") or ():
                chosen = _ready(slices, metadata, ip, port)
                if chosen and ip != "None":
                    wanted[ip, port.get("protocol", "TCP").lower(), port["port"]] = chosen
    return {key: frozenset(value) for key, value in wanted.items()}


def _ready(
    slices: list[dict[str, Any]], metadata: dict[str, Any], ip: str, port: dict[str, Any]
) -> set[tuple[str, int]]:
    family = "IPv6" if ":" in ip else "IPv4"
    chosen = set()
    for item in slices:
        owner = (item["metadata"].get("labels") or {}).get("kubernetes.io/service-name")
        if (item["metadata"]["namespace"], owner) != (metadata["namespace"], metadata["name"]):
            continue
        if item["addressType"] != family:
            continue
        for endpoint in item.get("endpoints") or ():
            if (endpoint.get("conditions") or {}).get("ready") is False:
                continue
            for entry in item.get("ports") or ():
                same = (entry.get("name") or "", entry.get("protocol", "TCP"))
                if same == (port.get("name") or "", port.get("protocol", "TCP")):
                    chosen.add((endpoint["addresses"][0], entry["port"]))
    return chosen


async def ruleset(cluster: Cluster, node: str) -> Counter[str]:
    """Everything in a node's nf_tables but its counters, in no order: what must not change."""
    text = await cluster.node_exec(node, "nft", "--stateless", "list", "ruleset")
    return Counter(part.strip() for part in re.split(r"[,\n{}]", text) if part.strip())


async def rulesets(cluster: Cluster) -> dict[str, Counter[str]]:
    """`ruleset` of each node."""
    return {node.name: await ruleset(cluster, node.name) for node in cluster.nodes}


async def generation(cluster: Cluster, node: str) -> int:
    """How many transactions a node's nf_tables has committed, modulo 2^32: the kernel's own count."""
    return int(await cluster.node_exec(node, sys.executable, "-c", _GENERATION))


async def generations(cluster: Cluster) -> dict[str, int]:
    """`generation` of each node."""
    return {node.name: await generation(cluster, node.name) for node in cluster.nodes}
