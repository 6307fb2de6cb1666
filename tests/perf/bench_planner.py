# SPDX-License-Identifier: Apache-2.0
"""Figures of the planner's core with sessions in memory: `python tests/perf/bench_planner.py [services] [sessions...]`.

Prints what one endpoint change costs (state, index, digests) and what building and acknowledging it for every node
costs. No figure is asserted: machines differ. Run it before and after a change of core/.
"""

import gc
import random
import resource
import statistics
import sys
import time

from pointsman_model.cluster import (
    Change,
    ClusterPosition,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Node,
    NodeAddress,
    Service,
    ServicePort,
    SliceKey,
    key_of,
)
from pointsman_model.digest import BUCKET_COUNT
from pointsman_model.names import Family, Protocol, ServiceKey
from pointsman_planner.core.messages import Ack, AckLevel, Hello
from pointsman_planner.core.planner import Batch, Planner

ENDPOINTS = 10


def endpoint_slice(number: int, nodes: int, salt: int) -> EndpointSlice:
    """Slice of service `number`; another salt moves one endpoint."""
    key = ServiceKey(f"ns-{number % 50}", f"svc-{number}")
    chooser = random.Random(number)
    endpoints = []
    for index in range(ENDPOINTS):
        last = salt if index == 0 else index
        address = bytes((10, 128 + number // 256 % 64, number % 256, last % 250 + 1))
        endpoints.append(Endpoint(address, node_name=f"node-{chooser.randrange(nodes)}", zone="zone-a"))
    return EndpointSlice(
        key=SliceKey(key.namespace, f"{key.name}-x"),
        service=key,
        family=Family.IPV4,
        ports=(EndpointPort("http", Protocol.TCP, 8080),),
        endpoints=tuple(endpoints),
    )


def cluster(services: int, nodes: int) -> list[Change]:
    """Every object of the cluster."""
    objects: list[Service | EndpointSlice | Node] = []
    for number in range(nodes):
        address = bytes((192, 168, number // 250, number % 250 + 1))
        objects.append(
            Node(name=f"node-{number}", zone=f"zone-{number % 3}", addresses=(NodeAddress("InternalIP", address),))
        )
    for number in range(services):
        objects.append(
            Service(
                key=ServiceKey(f"ns-{number % 50}", f"svc-{number}"),
                cluster_ips=(bytes((10, 96 + number // 65536, number // 256 % 256, number % 256)),),
                ports=(ServicePort("http", Protocol.TCP, 80),),
            )
        )
        objects.append(endpoint_slice(number, nodes, 0))
    return [Change(key=key_of(value), value=value) for value in objects]


def drain(planner: Planner, names: list[str]) -> tuple[int, int]:
    """Write everything that waits and acknowledge it; messages and bytes."""
    messages = size = 0
    for name in names:
        session = planner.sessions[name]
        while (frame := session.next_transaction(now_ns=0)) is not None:
            for part in frame.parts():
                messages += 1
                size += len(part)
            ack = Ack(nonce=frame.nonce, level=AckLevel.PROGRAMMED, digest=frame.digest, programmed_digest=frame.digest)
            session.receive(ack, now_ns=0)
    return messages, size


def measure(services: int, sessions: int) -> None:
    """One row."""
    nodes = max(sessions, 100)
    planner = Planner()
    started = time.perf_counter()
    planner.apply(Batch(changes=tuple(cluster(services, nodes)), position=ClusterPosition(epoch="e", revision=1)))
    loaded = time.perf_counter() - started
    names = [f"node-{number}" for number in range(sessions)]
    started = time.perf_counter()
    for name in names:
        planner.open(Hello(node_name=name, bucket_digests=(0,) * BUCKET_COUNT), now_ns=0)
    attached = time.perf_counter() - started
    started = time.perf_counter()
    drain(planner, names[:20])
    cold = (time.perf_counter() - started) / len(names[:20])
    drain(planner, names[20:])
    gc.collect()
    gc.freeze()
    computing, writing, touched, size = [], [], [], []
    chooser = random.Random(7)
    for step in range(200):
        item = endpoint_slice(chooser.randrange(services), nodes, 20 + step)
        batch = Batch(
            changes=(Change(key=key_of(item), value=item),), position=ClusterPosition(epoch="e", revision=2 + step)
        )
        t0 = time.perf_counter()
        applied = planner.apply(batch)
        t1 = time.perf_counter()
        written = drain(planner, [session.node for session in applied.marked])
        t2 = time.perf_counter()
        computing.append((t1 - t0) * 1e3)
        writing.append((t2 - t1) * 1e3)
        touched.append(written[0])
        size.append(written[1])
    assert all(planner.sessions[name].is_converged for name in names)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    cache = planner.cache.statistics
    sys.stdout.write(
        f"{services} services x {ENDPOINTS}, {sessions} sessions: load {loaded:.2f} s, attach {attached:.2f} s, "
        f"cold {cold * 1e3:.1f} ms/node | change: compute p50 {statistics.median(computing):.3f} ms "
        f"p99 {sorted(computing)[197]:.3f} ms, build+ack p50 {statistics.median(writing):.3f} ms, "
        f"messages {statistics.mean(touched):.1f}, bytes/message {sum(size) / max(sum(touched), 1):.0f} | "
        f"max rss {rss} MB, plans {cache.entries} ({cache.bytes >> 20} MB)\n"
    )
    gc.unfreeze()


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    for session_count in map(int, sys.argv[2:] or ("1", "100", "1000")):
        measure(count, session_count)
