# SPDX-License-Identifier: Apache-2.0
"""A fresh cluster: a registry with its rules, and the objects every cluster has before its first user.

Namespaces, the ServiceCIDR `kubernetes`, and `default/kubernetes` with its EndpointSlice.
"""

from __future__ import annotations

import ipaddress
import random
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from pointsman_lab.apiserver.admission.namespaces import NamespaceRules
from pointsman_lab.apiserver.admission.rules import EndpointSliceRules, NodeRules, SecretRules, ServiceCidrRules
from pointsman_lab.apiserver.admission.services import ServiceAllocator, ServiceRules
from pointsman_lab.apiserver.admission.workloads import (
    DAEMONSET_DEFAULTS,
    DEPLOYMENT_DEFAULTS,
    REPLICASET_DEFAULTS,
    STATEFULSET_DEFAULTS,
    PodRules,
    WorkloadRules,
)
from pointsman_lab.apiserver.deletion import TIME_FORMAT
from pointsman_lab.apiserver.registry import Registry
from pointsman_lab.apiserver.resources import (
    APPS,
    CORE,
    DEPLOYMENTS,
    ENDPOINTSLICES,
    NAMESPACES,
    NODES,
    PODS,
    REPLICASETS,
    SERVICECIDRS,
    SERVICES,
    by_plural,
)
from pointsman_lab.apiserver.store import ObjectStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pointsman_lab.apiserver.admission.services import Network
    from pointsman_lab.apiserver.encoding import Json

_SUFFIX_CHARACTERS: Final = "bcdfghjklmnpqrstvwxz2456789"
_FIRST_NAMESPACES: Final = ("default", "kube-node-lease", "kube-public", "kube-system")
KUBERNETES: Final = "kubernetes"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """What a cluster is born with.

    `service_cidrs` sets the families and their order; `api_addresses` and `api_port` go into the endpoint slices of
    `default/kubernetes` (none: no slice); `seed` makes allocations and generated names repeatable.
    """

    service_cidrs: tuple[str, ...] = ("10.96.0.0/12", "fd00:10:96::/112")
    node_ports: range = range(30000, 32768)
    api_addresses: tuple[str, ...] = ()
    api_port: int = 6443
    seed: int | None = None


def now_text() -> str:
    """Give the present time as the API writes it."""
    return datetime.now(UTC).strftime(TIME_FORMAT)


def new_cluster(options: ClusterOptions | None = None, store: ObjectStore | None = None) -> Registry:
    """Make a registry over a fresh store and write the first objects.

    Raises:
        ValueError: for a service CIDR that is no network.
    """
    options = options or ClusterOptions()
    for cidr in options.service_cidrs:
        ipaddress.ip_network(cidr)
    store = store or ObjectStore()
    chooser = random.Random(options.seed)
    allocator = ServiceAllocator(_networks_reader(store), options.node_ports, chooser)
    store.observe(SERVICES, lambda _resource, event: allocator.observe(event))
    registry = Registry(
        store,
        rules={
            SERVICES: ServiceRules(allocator),
            ENDPOINTSLICES: EndpointSliceRules(),
            SERVICECIDRS: ServiceCidrRules(now_text),
            NAMESPACES: NamespaceRules(),
            NODES: NodeRules(),
            PODS: PodRules(),
            by_plural(CORE, "secrets"): SecretRules(),
            DEPLOYMENTS: WorkloadRules(DEPLOYMENT_DEFAULTS),
            REPLICASETS: WorkloadRules(REPLICASET_DEFAULTS),
            by_plural(APPS, "statefulsets"): WorkloadRules(STATEFULSET_DEFAULTS),
            by_plural(APPS, "daemonsets"): WorkloadRules(DAEMONSET_DEFAULTS),
        },
        now=now_text,
        new_uid=lambda: str(uuid.UUID(int=chooser.getrandbits(128), version=4)),
        new_suffix=lambda: "".join(chooser.choices(_SUFFIX_CHARACTERS, k=5)),
    )
    _write_first_objects(registry, options)
    return registry


def _networks_reader(store: ObjectStore) -> Callable[[], Sequence[Network]]:
    """Give a function that reads the networks of all ServiceCIDRs; it decodes them again only after a change."""
    known: dict[tuple[int, ...], Sequence[Network]] = {}

    def read() -> Sequence[Network]:
        collection = store.collection(SERVICECIDRS)
        versions = tuple(stored.resource_version for stored in collection.objects.values())
        if versions not in known:
            known.clear()
            bodies = sorted((stored.decode() for stored in collection.objects.values()), key=_kubernetes_first)
            known[versions] = [ipaddress.ip_network(cidr) for body in bodies for cidr in body["spec"]["cidrs"]]
        return known[versions]

    return read


def _kubernetes_first(body: Json) -> tuple[bool, str]:
    name = body["metadata"]["name"]
    return name != KUBERNETES, name


def _write_first_objects(registry: Registry, options: ClusterOptions) -> None:
    for name in _FIRST_NAMESPACES:
        registry.create(NAMESPACES, {"metadata": {"name": name}})
    cidrs = {"metadata": {"name": KUBERNETES}, "spec": {"cidrs": list(options.service_cidrs)}}
    registry.create(SERVICECIDRS, cidrs)
    labels = {"component": "apiserver", "provider": KUBERNETES}
    first = str(ipaddress.ip_network(options.service_cidrs[0])[1])
    port = {"name": "https", "protocol": "TCP", "port": 443, "targetPort": options.api_port}
    spec = {"clusterIP": first, "ports": [port], "ipFamilyPolicy": "SingleStack"}
    registry.create(SERVICES, {"metadata": {"name": KUBERNETES, "labels": labels}, "spec": spec}, "default")
    for version in (4, 6):
        _write_api_slice(registry, options, version)


def _write_api_slice(registry: Registry, options: ClusterOptions, version: int) -> None:
    addresses = [ip for ip in options.api_addresses if ipaddress.ip_address(ip).version == version]
    if not addresses:
        return
    body = {
        "metadata": {
            "name": KUBERNETES if version == 4 else f"{KUBERNETES}-ipv6",
            "labels": {"kubernetes.io/service-name": KUBERNETES},
        },
        "addressType": f"IPv{version}",
        "endpoints": [{"addresses": [ip], "conditions": {"ready": True}} for ip in addresses],
        "ports": [{"name": "https", "protocol": "TCP", "port": options.api_port}],
    }
    registry.create(ENDPOINTSLICES, body, "default")
