# SPDX-License-Identifier: Apache-2.0
"""The resources this API server serves, as one table.

Everything that depends on a kind reads this table: paths, discovery, OpenAPI, field selectors, generation, bookmarks.
A new resource is a new row here; only kinds with rules of their own (Services, workloads) have code elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

CORE: Final = ""
APPS: Final = "apps"
DISCOVERY: Final = "discovery.k8s.io"
NETWORKING: Final = "networking.k8s.io"
COORDINATION: Final = "coordination.k8s.io"
EVENTS: Final = "events.k8s.io"
AUTHENTICATION: Final = "authentication.k8s.io"
AUTHORIZATION: Final = "authorization.k8s.io"
RBAC: Final = "rbac.authorization.k8s.io"
POLICY: Final = "policy"

ALL_VERBS: Final = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
STATUS_VERBS: Final = ("get", "patch", "update")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Resource:
    """One row: what a resource is called and which of the optional behaviours it has.

    `selectable` lists the field-selector paths beside metadata.name and metadata.namespace.
    `bookmark` holds the fields a real server's bookmark object carries for this kind beside its metadata.
    """

    group: str
    version: str
    plural: str
    singular: str
    kind: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    selectable: tuple[str, ...] = ()
    has_generation: bool = False
    bookmark: dict[str, Any] = field(default_factory=dict)

    @property
    def api_version(self) -> str:
        """`v1` for the core group, else `group/version`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified_name(self) -> str:
        """The name in messages: `services`, `deployments.apps`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def stored(self) -> bool:
        """False for the review kinds, which are answered and never kept."""
        return "list" in self.verbs

    @property
    def base_path(self) -> str:
        """Where the group version is served: `/api/v1` or `/apis/group/version`."""
        return f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path of the collection, of one object, or of its subresource."""
        parts = [self.base_path]
        if self.namespaced and namespace:
            parts.append(f"namespaces/{namespace}")
        parts.append(self.plural)
        parts.extend(part for part in (name, subresource) if part)
        return "/".join(parts)


_EVENT_FIELDS: Final = (
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
)
_POD_FIELDS: Final = (
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.nominatedNodeName",
)
_NODE_INFO: Final = dict.fromkeys(
    (
        "machineID",
        "systemUUID",
        "bootID",
        "kernelVersion",
        "osImage",
        "containerRuntimeVersion",
        "kubeletVersion",
        "kubeProxyVersion",
        "operatingSystem",
        "architecture",
    ),
    "",
)
_NODE_BOOKMARK: Final = {
    "spec": {},
    "status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 0}}, "nodeInfo": _NODE_INFO},
}


def _core(plural: str, singular: str, kind: str, **more: Any) -> Resource:
    return Resource(group=CORE, version="v1", plural=plural, singular=singular, kind=kind, **more)


def _apps(plural: str, singular: str, kind: str, short: str, *, scale: bool = True, **more: Any) -> Resource:
    return Resource(
        group=APPS,
        version="v1",
        plural=plural,
        singular=singular,
        kind=kind,
        short_names=(short,),
        categories=("all",),
        subresources=("scale", "status") if scale else ("status",),
        has_generation=True,
        **more,
    )


def _review(group: str, plural: str, singular: str, kind: str, *, namespaced: bool = False) -> Resource:
    return Resource(
        group=group,
        version="v1",
        plural=plural,
        singular=singular,
        kind=kind,
        namespaced=namespaced,
        verbs=("create",),
    )


def _rbac(plural: str, singular: str, kind: str) -> Resource:
    return Resource(group=RBAC, version="v1", plural=plural, singular=singular, kind=kind, namespaced=False)


CORE_RESOURCES: Final = (
    _core("configmaps", "configmap", "ConfigMap", short_names=("cm",)),
    _core("endpoints", "endpoints", "Endpoints", short_names=("ep",)),
    _core("events", "event", "Event", short_names=("ev",), selectable=_EVENT_FIELDS),
    _core(
        "namespaces",
        "namespace",
        "Namespace",
        namespaced=False,
        short_names=("ns",),
        subresources=("finalize", "status"),
        verbs=("create", "delete", "get", "list", "patch", "update", "watch"),
        selectable=("status.phase",),
    ),
    _core(
        "nodes",
        "node",
        "Node",
        namespaced=False,
        short_names=("no",),
        subresources=("status",),
        selectable=("spec.unschedulable",),
        bookmark=_NODE_BOOKMARK,
    ),
    _core(
        "pods",
        "pod",
        "Pod",
        short_names=("po",),
        categories=("all",),
        subresources=("binding", "eviction", "log", "status"),
        selectable=_POD_FIELDS,
        has_generation=True,
    ),
    _core(
        "replicationcontrollers",
        "replicationcontroller",
        "ReplicationController",
        short_names=("rc",),
        categories=("all",),
        subresources=("scale", "status"),
        selectable=("status.replicas",),
        has_generation=True,
    ),
    _core("secrets", "secret", "Secret", selectable=("type",)),
    _core("serviceaccounts", "serviceaccount", "ServiceAccount", short_names=("sa",)),
    _core(
        "services",
        "service",
        "Service",
        short_names=("svc",),
        categories=("all",),
        subresources=("status",),
        selectable=("spec.clusterIP", "spec.type"),
        bookmark={"spec": {}, "status": {"loadBalancer": {}}},
    ),
)
APPS_RESOURCES: Final = (
    _apps("daemonsets", "daemonset", "DaemonSet", "ds", scale=False),
    _apps("deployments", "deployment", "Deployment", "deploy"),
    _apps("replicasets", "replicaset", "ReplicaSet", "rs", selectable=("status.replicas",)),
    _apps("statefulsets", "statefulset", "StatefulSet", "sts"),
)
OTHER_RESOURCES: Final = (
    Resource(
        group=DISCOVERY,
        version="v1",
        plural="endpointslices",
        singular="endpointslice",
        kind="EndpointSlice",
        has_generation=True,
        bookmark={"addressType": "", "endpoints": None, "ports": None},
    ),
    Resource(
        group=NETWORKING,
        version="v1",
        plural="ipaddresses",
        singular="ipaddress",
        kind="IPAddress",
        namespaced=False,
        short_names=("ip",),
        selectable=("spec.parentRef",),
    ),
    Resource(
        group=NETWORKING,
        version="v1",
        plural="servicecidrs",
        singular="servicecidr",
        kind="ServiceCIDR",
        namespaced=False,
        subresources=("status",),
        bookmark={"spec": {}, "status": {}},
    ),
    Resource(
        group=NETWORKING,
        version="v1",
        plural="networkpolicies",
        singular="networkpolicy",
        kind="NetworkPolicy",
        short_names=("netpol",),
        has_generation=True,
    ),
    Resource(
        group=POLICY,
        version="v1",
        plural="poddisruptionbudgets",
        singular="poddisruptionbudget",
        kind="PodDisruptionBudget",
        short_names=("pdb",),
        subresources=("status",),
        has_generation=True,
    ),
    _rbac("clusterroles", "clusterrole", "ClusterRole"),
    _rbac("clusterrolebindings", "clusterrolebinding", "ClusterRoleBinding"),
    Resource(group=COORDINATION, version="v1", plural="leases", singular="lease", kind="Lease"),
    Resource(
        group=EVENTS,
        version="v1",
        plural="events",
        singular="event",
        kind="Event",
        short_names=("ev",),
        selectable=("reason", "regarding.kind", "regarding.name", "regarding.namespace", "regarding.uid", "type"),
    ),
    _review(AUTHENTICATION, "tokenreviews", "tokenreview", "TokenReview"),
    _review(AUTHENTICATION, "selfsubjectreviews", "selfsubjectreview", "SelfSubjectReview"),
    _review(AUTHORIZATION, "subjectaccessreviews", "subjectaccessreview", "SubjectAccessReview"),
    _review(AUTHORIZATION, "selfsubjectaccessreviews", "selfsubjectaccessreview", "SelfSubjectAccessReview"),
    _review(AUTHORIZATION, "selfsubjectrulesreviews", "selfsubjectrulesreview", "SelfSubjectRulesReview"),
    _review(
        AUTHORIZATION,
        "localsubjectaccessreviews",
        "localsubjectaccessreview",
        "LocalSubjectAccessReview",
        namespaced=True,
    ),
)

RESOURCES: Final = CORE_RESOURCES + APPS_RESOURCES + OTHER_RESOURCES
BY_PATH: Final = {(r.group, r.version, r.plural): r for r in RESOURCES}
BY_KIND: Final = {(r.api_version, r.kind): r for r in RESOURCES}


def by_plural(group: str, plural: str) -> Resource:
    """Give the row of a resource this module is known to hold; KeyError is a mistake of the caller."""
    return next(r for r in RESOURCES if r.group == group and r.plural == plural)


NAMESPACES: Final = by_plural(CORE, "namespaces")
NODES: Final = by_plural(CORE, "nodes")
PODS: Final = by_plural(CORE, "pods")
SERVICES: Final = by_plural(CORE, "services")
CORE_EVENTS: Final = by_plural(CORE, "events")
DEPLOYMENTS: Final = by_plural(APPS, "deployments")
REPLICASETS: Final = by_plural(APPS, "replicasets")
ENDPOINTSLICES: Final = by_plural(DISCOVERY, "endpointslices")
SERVICECIDRS: Final = by_plural(NETWORKING, "servicecidrs")
