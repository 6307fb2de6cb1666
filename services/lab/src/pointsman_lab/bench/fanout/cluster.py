# SPDX-License-Identifier: Apache-2.0
"""A scripted cluster and the watcher's end of WatchCluster: planners get its snapshot, then each change as a delta.

The real watcher adds an API server and the decoding of JSON, which cost the same for one node and for thousands; so
they are left out here, and a change begins when its delta is handed to the streams.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import grpc.aio

from pointsman.cluster.v1 import cluster_service_pb2 as pb
from pointsman.cluster.v1 import cluster_service_pb2_grpc as stubs
from pointsman.types.v1 import types_pb2

SLICE_ENDPOINTS = 100
_PART_CHANGES = 200
_BIG = "big"


def _address(first: int, number: int) -> bytes:
    return bytes((first, number >> 16 & 255, number >> 8 & 255, number & 255))


def _service(name: str, number: int) -> pb.Change:
    change = pb.Change(resource_version="1")
    value = change.service
    value.name.namespace, value.name.name, value.type, value.uid = "fanout", name, "ClusterIP", name
    value.cluster_ips.append(_address(10, number + 256))
    value.ports.add(name="http", protocol=types_pb2.PROTOCOL_TCP, port=80)
    value.internal_traffic_policy = value.external_traffic_policy = pb.TRAFFIC_POLICY_CLUSTER
    return change


def _slice(service: str, part: int, first: int, count: int) -> pb.Change:
    change = pb.Change(resource_version="1")
    value = change.endpoint_slice
    value.name.namespace, value.name.name, value.uid = "fanout", f"{service}-{part}", f"{service}-{part}"
    value.service_name, value.family = service, types_pb2.IP_FAMILY_IPV4
    value.ports.add(name="http", protocol=types_pb2.PROTOCOL_TCP, port=8080)
    for index in range(count):
        value.endpoints.add(address=_address(20, first + index + 1), ready=True, serving=True)
    return change


class ScriptedCluster(stubs.ClusterServiceServicer):
    """`services` small Services of `endpoints` each, one big Service, and `nodes` Nodes; changed by its methods."""

    def __init__(self, *, nodes: int, services: int, endpoints: int, big_endpoints: int) -> None:
        self.revision = 1
        self._next_address = 0
        self._endpoints = endpoints
        self._big_parts = -(-big_endpoints // SLICE_ENDPOINTS)
        self._big_endpoints = big_endpoints
        self._streams: set[asyncio.Queue[pb.Delta]] = set()
        self._held: dict[str, pb.Change] = {}
        for number in range(nodes):
            self._hold(self._node(number))
        for number in range(services):
            self._hold(_service(f"s{number}", number))
            self._hold(_slice(f"s{number}", 0, self._take(endpoints), endpoints))
        self._hold(_service(_BIG, services))
        for part in range(self._big_parts):
            self._hold(self._big_slice(part))

    @staticmethod
    def _node(number: int) -> pb.Change:
        change = pb.Change(resource_version="1")
        change.node.name = change.node.uid = f"n{number}"
        change.node.addresses.add(type="InternalIP", address=_address(172, number + 1))
        return change

    def _take(self, count: int) -> int:
        first, self._next_address = self._next_address, self._next_address + count
        return first

    def _big_slice(self, part: int) -> pb.Change:
        count = min(SLICE_ENDPOINTS, self._big_endpoints - part * SLICE_ENDPOINTS)
        return _slice(_BIG, part, self._take(count), count)

    def _hold(self, change: pb.Change) -> None:
        kind = change.WhichOneof("object") or ""
        value = getattr(change, kind)
        self._held[f"{kind} {value.name if kind == 'node' else value.name.name}"] = change

    def change_service(self, number: int) -> tuple[int, int]:
        """Give a small Service other endpoints; the revision, and when it was handed out (CLOCK_MONOTONIC, ns)."""
        return self._publish(_slice(f"s{number}", 0, self._take(self._endpoints), self._endpoints))

    def roll(self) -> Iterator[tuple[int, int]]:
        """Replace the big Service's endpoints slice by slice, one at each step."""
        for part in range(self._big_parts):
            yield self._publish(self._big_slice(part))

    def _publish(self, change: pb.Change) -> tuple[int, int]:
        self.revision += 1
        self._hold(change)
        delta = pb.Delta(revision=self.revision, changes=[change], complete=True)
        started_ns = time.monotonic_ns()
        for queue in self._streams:
            queue.put_nowait(delta)
        return self.revision, started_ns

    async def WatchCluster(  # noqa: N802 - the name in the proto
        self, request: object, context: object
    ) -> AsyncIterator[pb.WatchClusterResponse]:
        """Snapshot, then changes, for ever."""
        del request, context
        queue: asyncio.Queue[pb.Delta] = asyncio.Queue()
        revision, held = self.revision, list(self._held.values())
        self._streams.add(queue)
        try:
            opened = pb.Opened(
                epoch="fanout", revision=revision, start=pb.Opened.START_SNAPSHOT, heartbeat_interval_ms=1_000
            )
            yield pb.WatchClusterResponse(opened=opened)
            for start in range(0, len(held), _PART_CHANGES):
                end = start + _PART_CHANGES
                delta = pb.Delta(revision=revision, changes=held[start:end], complete=end >= len(held))
                yield pb.WatchClusterResponse(delta=delta)
            yield pb.WatchClusterResponse(in_sync=pb.InSync(revision=revision))
            while True:
                try:
                    async with asyncio.timeout(1.0):
                        delta = await queue.get()
                except TimeoutError:
                    yield pb.WatchClusterResponse(heartbeat=pb.Heartbeat(revision=self.revision))
                else:
                    yield pb.WatchClusterResponse(delta=delta)
        finally:
            self._streams.discard(queue)


async def serve(cluster: ScriptedCluster) -> tuple[grpc.aio.Server, str]:
    """A server of it on loopback, started, and its address."""
    server = grpc.aio.server()
    stubs.add_ClusterServiceServicer_to_server(cluster, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, f"127.0.0.1:{port}"
