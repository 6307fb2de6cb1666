# SPDX-License-Identifier: Apache-2.0
"""v1 Node and networking.k8s.io/v1 ServiceCIDR of the API to the vocabulary."""

from typing import Final

from pointsman_model.cluster import Node, NodeAddress, ServiceCIDR, Taint
from pointsman_watcher.core.api_objects import ZONE_LABEL, NodeObject, ServiceCIDRObject
from pointsman_watcher.core.facts import read_address, read_prefixes, sorted_items
from pointsman_watcher.core.problems import Problems

_IP_TYPES: Final = frozenset({"InternalIP", "ExternalIP"})


def convert_node(api: NodeObject, problems: Problems) -> Node:
    """The Node; names among its addresses (Hostname, InternalDNS, ExternalDNS) are left out."""
    metadata, spec = api.metadata, api.spec
    addresses: list[NodeAddress] = []
    for index, entry in enumerate((api.status.addresses if api.status else None) or []):
        if entry.type in _IP_TYPES:
            address = read_address(entry.address, f"status.addresses[{index}].address", problems)
            if address is not None:
                addresses.append(NodeAddress(entry.type, address))
    pod_cidrs = spec.pod_cidrs or ([spec.pod_cidr] if spec.pod_cidr else [])
    return Node(
        name=metadata.name,
        uid=metadata.uid,
        addresses=tuple(addresses),
        pod_cidrs=read_prefixes(pod_cidrs, "spec.podCIDRs", problems),
        zone=(metadata.labels or {}).get(ZONE_LABEL, ""),
        labels=sorted_items(metadata.labels),
        taints=tuple(Taint(taint.key, taint.value or "", taint.effect or "") for taint in spec.taints or []),
        deleting=bool(metadata.deletion_timestamp),
    )


def convert_service_cidr(api: ServiceCIDRObject, problems: Problems) -> ServiceCIDR:
    """The ServiceCIDR."""
    return ServiceCIDR(name=api.metadata.name, cidrs=read_prefixes(api.spec.cidrs, "spec.cidrs", problems))
