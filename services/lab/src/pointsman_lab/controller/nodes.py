# SPDX-License-Identifier: Apache-2.0
"""Node objects of the lab's nodes. Pure."""

from pointsman_lab.controller.objects import HOSTNAME_LABEL, ZONE_LABEL, Object
from pointsman_lab.net.topology import NodePlace

REGION = "lab"


def node_object(node: NodePlace) -> Object:
    """The Node without its status, as a kubelet registers it."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node.name,
            "labels": {
                HOSTNAME_LABEL: node.name,
                ZONE_LABEL: node.zone,
                "topology.kubernetes.io/region": REGION,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
            },
        },
        "spec": {
            "podCIDR": node.pod_cidr.ipv4,
            "podCIDRs": list(node.pod_cidr),
            "providerID": f"pointsman-lab://{node.name}",
        },
    }


def node_status(node: NodePlace, now: str, *, kernel_version: str) -> Object:
    """The status of a healthy node."""
    resources = {"cpu": "4", "memory": "8Gi", "pods": "250"}
    return {
        "capacity": resources,
        "allocatable": resources,
        "addresses": [
            {"type": "InternalIP", "address": node.address.ipv4},
            {"type": "InternalIP", "address": node.address.ipv6},
            {"type": "Hostname", "address": node.name},
        ],
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "KubeletReady",
                "message": "the lab's node is up",
                "lastHeartbeatTime": now,
                "lastTransitionTime": now,
            }
        ],
        "nodeInfo": {
            "machineID": "",
            "systemUUID": "",
            "bootID": "",
            "kernelVersion": kernel_version,
            "osImage": "pointsman-lab",
            "containerRuntimeVersion": "lab://1",
            "kubeletVersion": "v1.36.2",
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": "amd64",
        },
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
    }
