# SPDX-License-Identifier: Apache-2.0
"""Any order and duplication of events ends in byte-equal plans, and sharing never changes a node's plan."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman_model.cluster import Change, ClusterObject, ClusterPosition, key_of
from pointsman_model.digest import BUCKET_COUNT, DigestBuckets, bucket_of, plan_digest
from pointsman_model.names import ServiceKey
from pointsman_model.wire.plan import encode_service_plan
from pointsman_planner.core.cluster_state import ClusterState
from pointsman_planner.core.framing import update_field
from pointsman_planner.core.messages import Hello
from pointsman_planner.core.node_plan import plan
from pointsman_planner.core.planner import Batch, Planner
from support.cluster_objects import endpoint, endpoint_slice, node, service
from support.random_cluster import NODES, changes

ALL_NODES = (*NODES, "unknown-node")


def encoded(cluster: ClusterState, node: str) -> dict[ServiceKey, bytes]:
    return {key: encode_service_plan(value) for key, value in plan(node, cluster).services.items()}


@settings(max_examples=150, deadline=None)
@given(st.lists(changes(), max_size=25), st.randoms(use_true_random=False), st.integers(1, 6))
def test_any_order_and_duplication_ends_in_the_same_bytes(history: list[Change], chooser: object, size: int) -> None:
    final: dict[object, Change] = {}
    for change in history:
        final[change.key] = change
    straight, shuffled = ClusterState(), ClusterState()
    for change in history:
        straight.apply([change])
    events = list(final.values()) * 2
    chooser.shuffle(events)  # type: ignore[attr-defined] # Hypothesis hands a random.Random
    for start in range(0, len(events), size):
        shuffled.apply(events[start : start + size])
    for name in ALL_NODES:
        assert encoded(straight, name) == encoded(shuffled, name)
        assert straight.node_view(name) == shuffled.node_view(name)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(changes(), min_size=1, max_size=4), max_size=10), st.integers(0, 4096))
def test_sharing_never_changes_a_plan_and_sums_stay_right(batches: list[list[Change]], cache_bytes: int) -> None:
    planner = Planner(cache_bytes_max=cache_bytes * 16)
    planner.apply(Batch(changes=(), position=ClusterPosition(epoch="e", revision=0)))
    for number, batch in enumerate(batches):
        if number < len(ALL_NODES):
            hello = Hello(node_name=ALL_NODES[number], bucket_digests=(0,) * BUCKET_COUNT)
            planner.open(hello, now_ns=0)
        before = {name: encoded(planner.cluster, name) for name in planner.sessions}
        applied = planner.apply(Batch(changes=tuple(batch), position=ClusterPosition(epoch="e", revision=number + 1)))
        for name, session in planner.sessions.items():
            alone = encoded(planner.cluster, name)
            shared = {key: planner.update(key, name) for key in planner.cluster.services}
            assert shared == {key: update_field(key, data) for key, data in alone.items()}
            expected = DigestBuckets()
            for key, data in alone.items():
                expected.replace(bucket_of(key), 0, plan_digest(key, data))
            assert planner.digest(name) == expected.total
            assert planner.buckets(name).sums == expected.sums
            if alone != before[name]:
                assert session in applied.marked


def test_nodes_of_one_view_share_the_very_same_bytes() -> None:
    planner = Planner()
    objects: list[ClusterObject] = [
        *(node(f"node-{n}", f"192.168.0.{n + 1}", zone="ab"[n % 2]) for n in range(10)),
        service("hinted", "10.96.0.1", ports=["p:80"]),
        endpoint_slice(
            "hinted-1",
            "hinted",
            [endpoint("10.0.0.1", zone_hints=["a"]), endpoint("10.0.0.2", zone_hints=["b"])],
            ["p:80"],
        ),
        service("plain", "10.96.0.2", ports=["p:80"]),
        endpoint_slice("plain-1", "plain", [endpoint("10.0.0.3", node="node-3")], ["p:80"]),
    ]
    planner.apply(
        Batch(
            changes=tuple(Change(key=key_of(value), value=value) for value in objects),
            position=ClusterPosition(epoch="e", revision=1),
        )
    )
    for n in range(10):
        planner.open(Hello(node_name=f"node-{n}", bucket_digests=(0,) * BUCKET_COUNT), now_ns=0)
    by_service = {
        key: len({id(planner.update(key, f"node-{n}")) for n in range(10)}) for key in planner.cluster.services
    }
    assert {key.name: count for key, count in by_service.items()} == {"hinted": 2, "plain": 2}
    assert planner.cache.statistics.encoded == 4
