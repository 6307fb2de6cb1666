# SPDX-License-Identifier: Apache-2.0
"""The controllers' loop: follow the API, mark dirty, look at what is dirty, write the next step.

Every answer of the API server goes back into the state at once, so that a decision never repeats a step because the
watch is late. A key that fails is marked again and tried after a pause.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

from pointsman_lab.controller import deployments, endpointslices, loadbalancers
from pointsman_lab.controller.gateway import ApiConflictError, ApiUnavailableError, Change, ChangeKind, Gateway
from pointsman_lab.controller.kubelet import Kubelet
from pointsman_lab.controller.nodes import node_object, node_status
from pointsman_lab.controller.objects import (
    Object,
    is_controlled_by,
    is_terminating,
    key,
    labels,
    name,
    namespace,
    spec,
    status,
    uid,
)
from pointsman_lab.controller.pods import unschedulable_status
from pointsman_lab.controller.scheduling import choose_node
from pointsman_lab.controller.state import RESOURCES, ROUTES_KEY, ClusterState, DirtyKey
from pointsman_lab.errors import NetworkError
from pointsman_lab.net.fabric import Fabric

_MALFORMED = (AttributeError, LookupError, TypeError, ValueError)
"""What a decision raises over an object that is not as the API has it."""
_RETRY_SECONDS = 0.2
_log = logging.getLogger(__name__)


def timestamp() -> str:
    """The present instant in the API's MicroTime form."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Controllers:
    """All controllers of the lab over one API server and one network."""

    def __init__(self, gateway: Gateway, fabric: Fabric, logs: Path) -> None:
        """Takes the API, the network and where pods log; `run` does the rest."""
        self._gateway = gateway
        self._fabric = fabric
        self._wakeup = asyncio.Event()
        self._random = random.Random()
        self._routes: dict[str, tuple[str, ...]] = {}
        self.state = ClusterState(now=timestamp)
        self.kubelet = Kubelet(self.state, gateway, fabric, logs, self._wakeup.set)
        self.in_sync = asyncio.Event()

    async def register_nodes(self, kernel_version: str) -> None:
        """Creates the Node objects of the lab's nodes, Ready."""
        for node in self._fabric.topology.nodes:
            with contextlib.suppress(ApiConflictError):
                await self._gateway.create("nodes", node_object(node))
            await self._gateway.patch(
                "nodes",
                "",
                node.name,
                {"status": node_status(node, timestamp(), kernel_version=kernel_version)},
                subresource="status",
            )

    async def run(self) -> None:
        """Runs until cancelled."""
        listed = {resource: asyncio.Event() for resource in RESOURCES}
        async with asyncio.TaskGroup() as tasks:
            for resource, event in listed.items():
                tasks.create_task(self._follow(resource, event), name=f"follow {resource}")
            for event in listed.values():
                await event.wait()
            self.state.mark_all()
            self._wakeup.set()
            self.in_sync.set()
            while True:
                await self._wakeup.wait()
                self._wakeup.clear()
                await self._reconcile_all(self.state.take_dirty())

    async def _follow(self, resource: str, listed: asyncio.Event) -> None:
        selector = f"{endpointslices.MANAGED_BY_LABEL}={endpointslices.MANAGED_BY}"
        changes: AsyncIterator[Change] = self._gateway.follow(
            resource, label_selector=selector if resource == "endpointslices" else ""
        )
        async for change in changes:
            if change.kind is ChangeKind.LISTED:
                self.state.observe_list(resource, change.objects)
                listed.set()
                if resource == "pods":
                    self.kubelet.forget({uid(pod) for pod in self.state.caches["pods"]})
            elif change.kind is ChangeKind.PUT:
                self.state.observe(resource, change.objects[0])
            else:
                self.state.observe_gone(resource, change.objects[0])
                if resource == "pods":
                    self.kubelet.forget({uid(pod) for pod in self.state.caches["pods"]})
            self._wakeup.set()

    async def _reconcile_all(self, dirty: list[DirtyKey]) -> None:
        """Looks at each key once; pods and Deployments first, since the rest follows from them."""
        order = {"deployment": 0, "pod": 1, "service": 2, "routes": 3}
        retry: list[DirtyKey] = []
        for kind, object_key in sorted(dirty, key=lambda entry: order[entry[0]]):
            try:
                await self._reconcile(kind, object_key)
            except (ApiConflictError, ApiUnavailableError, NetworkError) as error:
                _log.info("%s %s: %s; trying again", kind, object_key, error)
                retry.append((kind, object_key))
            except _MALFORMED:
                # The API server checks less than a real one. Its next version brings the object here again.
                _log.exception("%s %s cannot be read; left as it is", kind, object_key)
        if retry:
            await asyncio.sleep(_RETRY_SECONDS)
            self.state.dirty.update(dict.fromkeys(retry))
            self._wakeup.set()

    async def _reconcile(self, kind: str, object_key: str) -> None:
        if (kind, object_key) == ROUTES_KEY:
            await self._reconcile_routes()
        elif kind == "deployment":
            await self._reconcile_deployment(object_key)
        elif kind == "pod":
            await self._reconcile_pod(object_key)
        else:
            await self._reconcile_service(object_key)

    async def _reconcile_deployment(self, object_key: str) -> None:
        deployment = self.state.caches["deployments"].get(object_key)
        if deployment is None or is_terminating(deployment):
            return
        pods = self.state.caches["pods"].within(namespace(deployment))
        plan = deployments.plan_deployment(deployment, pods, self._suffix, now=timestamp())
        nodes = list(self.state.caches["nodes"])
        for pod in plan.create:
            node = choose_node(pod, nodes, list(self.state.caches["pods"]))
            if node is not None and not spec(pod).get("nodeName"):
                pod["spec"]["nodeName"] = node
            self.state.observe("pods", await self._gateway.create("pods", pod))
            self._wakeup.set()
        for pod_name in plan.delete:
            left = await self._gateway.delete("pods", namespace(deployment), pod_name)
            if left is not None and is_terminating(left):
                self.state.observe("pods", left)
                self._wakeup.set()
        if {**status(deployment), **plan.status} != status(deployment):
            written = await self._gateway.patch(
                "deployments", namespace(deployment), name(deployment), {"status": plan.status}, subresource="status"
            )
            if written is not None:
                self.state.observe("deployments", written)

    async def _reconcile_pod(self, object_key: str) -> None:
        pod = self.state.caches["pods"].get(object_key)
        if pod is None:
            return
        if not is_terminating(pod) and self._is_orphan(pod):
            left = await self._gateway.delete("pods", namespace(pod), name(pod), uid=uid(pod))
            if left is not None and is_terminating(left):
                self.state.observe("pods", left)
                self._wakeup.set()
            return
        if is_terminating(pod) and not self.kubelet.is_running(pod):
            await self._gateway.delete("pods", namespace(pod), name(pod), uid=uid(pod), grace_seconds=0)
            self.state.observe_gone("pods", pod)
            self._wakeup.set()
            return
        if not spec(pod).get("nodeName"):
            await self._schedule(pod)
            return
        self.kubelet.sync(pod)

    def _is_orphan(self, pod: Object) -> bool:
        """Whether the Deployment that made the pod is gone."""
        owners = [
            reference
            for reference in pod["metadata"].get("ownerReferences") or ()
            if reference.get("kind") == "Deployment" and reference.get("controller")
        ]
        known = {uid(deployment) for deployment in self.state.caches["deployments"].within(namespace(pod))}
        return any(owner.get("uid") not in known for owner in owners)

    async def _schedule(self, pod: Object) -> None:
        node = choose_node(pod, list(self.state.caches["nodes"]), list(self.state.caches["pods"]))
        if node is None:
            wanted = unschedulable_status(pod, timestamp())
            if status(pod).get("conditions") != wanted["conditions"]:
                written = await self._gateway.patch(
                    "pods", namespace(pod), name(pod), {"status": wanted}, subresource="status"
                )
                if written is not None:
                    self.state.observe("pods", written)
            return
        await self._gateway.bind(namespace(pod), name(pod), node)

    async def _reconcile_service(self, object_key: str) -> None:
        service = self.state.caches["services"].get(object_key)
        trigger_time = self.state.trigger_times.pop(object_key, timestamp())
        namespace_name, _, service_name = object_key.partition("/")
        existing = [
            slice_
            for slice_ in self.state.caches["endpointslices"].within(namespace_name)
            if labels(slice_).get(endpointslices.SERVICE_NAME_LABEL) == service_name
        ]
        if service is None or not endpointslices.is_managed(service):
            stale = [slice_ for slice_ in existing if service is None or is_controlled_by(slice_, uid(service))]
            await self._delete_slices(namespace_name, [name(slice_) for slice_ in stale])
        else:
            pods = self.state.caches["pods"].within(namespace_name)
            nodes = {name(node): node for node in self.state.caches["nodes"]}
            plan = endpointslices.plan_slices(service, pods, nodes, existing, trigger_time=trigger_time)
            await self._write_slices(namespace_name, plan)
        if service is not None:
            await self._reconcile_ingress(service)

    async def _write_slices(self, namespace_name: str, plan: endpointslices.SlicePlan) -> None:
        for slice_ in plan.create:
            self.state.observe("endpointslices", await self._gateway.create("endpointslices", slice_))
        for slice_ in plan.update:
            written = await self._gateway.replace("endpointslices", slice_)
            if written is None:
                raise ApiConflictError(f"endpointslice {key(slice_)} is gone")
            self.state.observe("endpointslices", written)
        await self._delete_slices(namespace_name, plan.delete)

    async def _delete_slices(self, namespace_name: str, names: list[str] | tuple[str, ...]) -> None:
        for slice_name in names:
            await self._gateway.delete("endpointslices", namespace_name, slice_name)
            known = self.state.caches["endpointslices"].get(f"{namespace_name}/{slice_name}")
            if known is not None:
                self.state.observe_gone("endpointslices", known)

    async def _reconcile_ingress(self, service: Object) -> None:
        # A generator, so that the many Services without a load balancer do not look at each other.
        in_use = (
            address
            for other in self.state.caches["services"]
            if key(other) != key(service)
            for address in loadbalancers.ingress_addresses(other)
        )
        wanted = loadbalancers.plan_ingress(service, in_use)
        if wanted is None:
            return
        patch = {"status": {"loadBalancer": wanted or {"ingress": None}}}
        written = await self._gateway.patch("services", namespace(service), name(service), patch, subresource="status")
        if written is not None:
            self.state.observe("services", written)
            self._wakeup.set()

    async def _reconcile_routes(self) -> None:
        nodes = [node.name for node in self._fabric.topology.nodes]
        wanted = loadbalancers.outside_routes(
            self.state.caches["services"], list(self.state.caches["endpointslices"]), nodes
        )
        changes = [(address, via) for address, via in wanted.items() if self._routes.get(address) != via]
        # An address nobody has any more goes the way of the whole pool: to the first node.
        changes += [(address, tuple(nodes[:1])) for address in self._routes if address not in wanted]
        await self._fabric.route_outside(changes)
        self._routes = wanted

    def _suffix(self) -> str:
        return deployments.random_suffix(self._random.choice)
