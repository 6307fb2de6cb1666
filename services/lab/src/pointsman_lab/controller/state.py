# SPDX-License-Identifier: Apache-2.0
"""What the controllers have to look at again after each change. Pure.

An observed object enters its cache and marks the keys whose decisions depend on it; nothing is decided here.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pointsman_lab.controller.cache import ObjectCache
from pointsman_lab.controller.endpointslices import SERVICE_NAME_LABEL
from pointsman_lab.controller.loadbalancers import has_outside_addresses
from pointsman_lab.controller.objects import Object, is_controlled_by, key, labels, namespace, selects, spec, uid

RESOURCES = ("nodes", "deployments", "pods", "services", "endpointslices")
ROUTES_KEY = ("routes", "")

DirtyKey = tuple[str, str]


@dataclass(slots=True)
class ClusterState:
    """The caches, the dirty keys in the order they were marked, and since when each service has been out of date."""

    now: Callable[[], str]
    caches: dict[str, ObjectCache] = field(default_factory=lambda: {name: ObjectCache() for name in RESOURCES})
    dirty: dict[DirtyKey, None] = field(default_factory=dict)
    trigger_times: dict[str, str] = field(default_factory=dict)

    def observe(self, resource: str, obj: Object) -> None:
        """Takes in an object that was created or changed."""
        old = self.caches[resource].get(key(obj))
        if self.caches[resource].put(obj):
            self._mark(resource, obj)
            if old is not None and resource in ("pods", "services"):
                # What depended on the old labels, or on addresses the Service had.
                self._mark(resource, old)

    def observe_gone(self, resource: str, obj: Object) -> None:
        """Takes in that an object is gone."""
        self.caches[resource].remove(obj)
        self._mark(resource, obj)

    def observe_list(self, resource: str, objects: Iterable[Object]) -> None:
        """Takes in everything there is of a kind."""
        changed, gone = self.caches[resource].replace(objects)
        for obj in (*changed, *gone):
            self._mark(resource, obj)

    def take_dirty(self) -> list[DirtyKey]:
        """The keys to look at, the oldest first; they are clean from now on."""
        keys = list(self.dirty)
        self.dirty.clear()
        return keys

    def mark_all(self) -> None:
        """Everything is to be looked at, for instance after the first lists."""
        for resource, kind in (("deployments", "deployment"), ("pods", "pod"), ("services", "service")):
            for obj in self.caches[resource]:
                self.dirty[kind, key(obj)] = None
        self.dirty[ROUTES_KEY] = None

    def _mark(self, resource: str, obj: Object) -> None:
        match resource:
            case "deployments":
                self._mark_deployment(obj)
            case "pods":
                self._mark_pod(obj)
            case "services":
                self._mark_service(obj)
            case "endpointslices":
                self._mark_slice(obj)
            case "nodes":
                waiting = [pod for pod in self.caches["pods"] if not spec(pod).get("nodeName")]
                self.dirty.update({("pod", key(pod)): None for pod in waiting})

    def _mark_deployment(self, deployment: Object) -> None:
        self.dirty["deployment", key(deployment)] = None
        for pod in self.caches["pods"].within(namespace(deployment)):
            if is_controlled_by(pod, uid(deployment)):
                self.dirty["pod", key(pod)] = None

    def _mark_slice(self, slice_: Object) -> None:
        service_key = f"{namespace(slice_)}/{labels(slice_).get(SERVICE_NAME_LABEL, '')}"
        self.dirty["service", service_key] = None
        service = self.caches["services"].get(service_key)
        if service is not None and has_outside_addresses(service):
            self.dirty[ROUTES_KEY] = None

    def _mark_pod(self, pod: Object) -> None:
        self.dirty["pod", key(pod)] = None
        for reference in pod["metadata"].get("ownerReferences") or ():
            if reference.get("kind") == "Deployment":
                self.dirty["deployment", f"{namespace(pod)}/{reference['name']}"] = None
        for service in self.caches["services"].within(namespace(pod)):
            if selects(spec(service).get("selector") or {}, labels(pod)):
                self._mark_service(service)

    def _mark_service(self, service: Object) -> None:
        self.dirty["service", key(service)] = None
        if has_outside_addresses(service):
            self.dirty[ROUTES_KEY] = None
        self.trigger_times.setdefault(key(service), self.now())
