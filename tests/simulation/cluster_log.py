# SPDX-License-Identifier: Apache-2.0
"""What the API server would say, as a log of changes: the one truth that planners follow at their own pace.

Two services are stable: they always exist and always have a ready endpoint, so no node that has once had them may ever
be without them.
"""

from __future__ import annotations

from random import Random

from pointsman_model.cluster import (
    Change,
    ClusterObject,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Node,
    NodeAddress,
    ObjectKey,
    ObjectKind,
    Service,
    ServicePort,
    SliceKey,
    TrafficPolicy,
    key_of,
)
from pointsman_model.names import Family, Protocol, ServiceKey

STABLE = (ServiceKey("default", "stable-0"), ServiceKey("default", "stable-1"))
_OTHERS = tuple(ServiceKey("default", f"s{index}") for index in range(6))
SERVICES = (*STABLE, *_OTHERS)
NODES = ("n1", "n2", "n3")
_POLICIES = tuple(TrafficPolicy)


def cluster_ip(key: ServiceKey) -> bytes:
    """The cluster IP that a service has all its lives."""
    return bytes((10, 96, 0, 1 + SERVICES.index(key)))


def node_port(key: ServiceKey) -> int:
    """The node port that a service has all its lives."""
    return 30001 + SERVICES.index(key)


class ClusterLog:
    """All changes so far; revision r is the state after the first r of them."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.changes: list[Change] = []
        for index, name in enumerate(NODES):
            self._append(self._node(name, index))
        for key in SERVICES[:5]:
            self._append(self._service(key))
            self._append(self._slice(key))

    @property
    def revision(self) -> int:
        """Of the newest state."""
        return len(self.changes)

    def objects_at(self, revision: int) -> dict[ObjectKey, ClusterObject]:
        """Everything that exists at a revision."""
        objects: dict[ObjectKey, ClusterObject] = {}
        for change in self.changes[:revision]:
            if change.value is None:
                objects.pop(change.key, None)
            else:
                objects[change.key] = change.value
        return objects

    def has_service(self, key: ServiceKey, revision: int) -> bool:
        """Whether a service exists at a revision."""
        wanted = ObjectKey(ObjectKind.SERVICE, *key)
        for change in reversed(self.changes[:revision]):
            if change.key == wanted:
                return change.value is not None
        return False

    def change(self) -> str:
        """Something happens in the cluster; in words."""
        key = self._random.choice(SERVICES)
        draw = self._random.random()
        if draw < 0.55:
            return self._append(self._slice(key))
        if draw < 0.75:
            return self._append(self._service(key))
        if draw < 0.9 and key not in STABLE:
            kind = self._random.choice([ObjectKind.SERVICE, ObjectKind.ENDPOINT_SLICE])
            name = key.name if kind is ObjectKind.SERVICE else f"{key.name}-a"
            gone = ObjectKey(kind, key.namespace, name)
            self.changes.append(Change(key=gone, value=None))
            return f"{gone} is deleted"
        return self._append(self._node(self._random.choice(NODES), self._random.randrange(3)))

    def _append(self, value: ClusterObject) -> str:
        self.changes.append(Change(key=key_of(value), value=value))
        return f"{self.changes[-1].key} changes"

    def _node(self, name: str, variant: int) -> Node:
        address = bytes((192, 168, 0, 10 * (1 + NODES.index(name)) + variant % 2))
        return Node(name=name, zone=("a", "b", "")[variant], addresses=(NodeAddress("InternalIP", address),))

    def _service(self, key: ServiceKey) -> Service:
        return Service(
            key=key,
            type="NodePort",
            cluster_ips=(cluster_ip(key),),
            ports=(ServicePort("p", Protocol.TCP, 80, node_port(key)),),
            internal_traffic_policy=self._random.choice(_POLICIES),
            external_traffic_policy=self._random.choice(_POLICIES),
            affinity_timeout_seconds=self._random.choice([0, 0, 10800]),
        )

    def _slice(self, key: ServiceKey) -> EndpointSlice:
        first = 1 if key in STABLE else 0
        return EndpointSlice(
            key=SliceKey(key.namespace, f"{key.name}-a"),
            service=key,
            family=Family.IPV4,
            ports=(EndpointPort("p", Protocol.TCP, 8080),),
            endpoints=tuple(self._endpoint(number, must_be_ready=number < first) for number in range(first + 2)),
        )

    def _endpoint(self, number: int, *, must_be_ready: bool) -> Endpoint:
        is_ready = must_be_ready or self._random.random() < 0.7
        return Endpoint(
            address=bytes((10, 1, 0, 1 + number * 4 + self._random.randrange(4))),
            ready=is_ready,
            serving=is_ready or self._random.random() < 0.5,
            terminating=not is_ready and self._random.random() < 0.5,
            node_name=self._random.choice(NODES),
            zone_hints=self._random.choice([(), ("a",), ("b",)]),
        )
