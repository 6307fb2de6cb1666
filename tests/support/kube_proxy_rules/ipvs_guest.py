# SPDX-License-Identifier: Apache-2.0
"""Run inside a guest: kube-proxy's IPVS is removed while two connections are held; prints one JSON object."""

from __future__ import annotations

import asyncio
import json
import socket
import sys

from pointsman_enforcer.dataplane.kube_proxy.ipvs import KubeProxyIpvs
from support.kube_proxy_rules.cluster import NODE_PORT
from support.kube_proxy_rules.takeover import find, remove
from support.kube_proxy_rules.world import KubeProxyWorld
from support.netns import NetNs
from support.traffic import Reply, parse_reply, probe

_FOREIGN = ("192.0.2.1:80", "192.168.0.2:9999")
"""Virtual servers of others: elsewhere, and at this node's own address."""


def _talk(client: socket.socket) -> str:
    client.sendall(b"who?")
    return parse_reply(client.recv(128)).name


def _open(namespace: NetNs, address: str) -> socket.socket:
    client = namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
    client.settimeout(5)
    client.connect((address, 80))
    return client


async def _look(ipvs: KubeProxyIpvs) -> tuple[str, bool]:
    return await ipvs.find(), ipvs.is_waiting


def _run() -> dict[str, object]:
    with KubeProxyWorld("legacy") as world:
        others = world.others()
        for place in _FOREIGN:
            world.node.run("ipvsadm", "-A", "-t", place, "-s", "rr")
        world.install("ipvs")
        at, ipvs = world.clusters[0].at, KubeProxyIpvs()
        places = (
            (world.pod, at.cluster_ip, 80),
            (world.client, at.load_balancer, 80),
            (world.client, at.node, NODE_PORT),
        )
        seen: dict[str, object] = {
            "arrives": [isinstance(probe(*each), Reply) for each in places],
            "found": world.node.call(lambda: asyncio.run(find())),
        }
        pod, node = _open(world.pod, at.cluster_ip), _open(world.node, at.cluster_ip)
        before = [_talk(pod), _talk(node)]
        world.node.call(lambda: asyncio.run(remove()))
        seen["goes on"] = [_talk(pod), _talk(node)] == before
        seen["rest"], seen["waits"] = world.node.call(lambda: asyncio.run(_look(ipvs)))
        seen["servers"] = world.node.run("ipvsadm", "-Sn").count("-A ")
        pod.close()
        node.close()
        _, seen["looks"] = world.node.call(lambda: asyncio.run(remove(until_gone=True)))
        seen["left"] = world.node.call(lambda: asyncio.run(find()))
        seen["foreign"] = sorted(map(str.strip, world.node.run("ipvsadm", "-Sn").splitlines()))
        seen["device"] = "kube-ipvs0" in world.node.run("ip", "link")
        seen["sets"] = world.node.run("ipset", "list", "-n")
        seen["others untouched"] = world.others() == others
        return seen


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_run()) + "\n")
