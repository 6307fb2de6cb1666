# SPDX-License-Identifier: Apache-2.0
"""Overrides among changes of the cluster: any order ends in the same bytes, and nodes program them."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman_enforcer.dataplane.base import UnsupportedPlanError
from pointsman_enforcer.dataplane.nftables.render import RenderContext, render_service
from pointsman_enforcer.dataplane.nftables.support import CAPABILITIES
from pointsman_model.cluster import Change, ClusterPosition
from pointsman_model.digest import BUCKET_COUNT, DigestBuckets, bucket_of, plan_digest
from pointsman_model.names import Family, ServiceKey
from pointsman_model.wire.plan import decode_service_plan, encode_service_plan
from pointsman_planner.core.cluster_state import ClusterState
from pointsman_planner.core.framing import update_field
from pointsman_planner.core.messages import Hello
from pointsman_planner.core.node_plan import plan
from pointsman_planner.core.override import OverrideChange
from pointsman_planner.core.override_rules import problems
from pointsman_planner.core.planner import Batch, Planner
from support.overrides import override_changes
from support.random_cluster import NODES, changes

ALL_NODES = (*NODES, "unknown-node")
Step = Change | OverrideChange


def encoded(cluster: ClusterState, node: str) -> dict[ServiceKey, bytes]:
    return {key: encode_service_plan(value) for key, value in plan(node, cluster).services.items()}


def take(cluster: ClusterState, step: Step) -> None:
    if isinstance(step, Change):
        cluster.apply([step])
    else:
        cluster.override([step])


def steps() -> st.SearchStrategy[Step]:
    return st.one_of(changes(), changes(), override_changes())


@settings(max_examples=120, deadline=None)
@given(st.lists(steps(), max_size=30), st.randoms(use_true_random=False))
def test_any_order_and_duplication_ends_in_the_same_bytes(history: list[Step], chooser: object) -> None:
    final: dict[object, Step] = {(type(step), step.key): step for step in history}
    straight, shuffled = ClusterState(), ClusterState()
    for step in history:
        take(straight, step)
    events = list(final.values()) * 2
    chooser.shuffle(events)  # type: ignore[attr-defined] # Hypothesis hands a random.Random
    for step in events:
        take(shuffled, step)
    for name in ALL_NODES:
        assert encoded(straight, name) == encoded(shuffled, name)
        assert plan(name, straight) == plan(name, shuffled)


@settings(max_examples=120, deadline=None)
@given(st.lists(steps(), min_size=1, max_size=20), st.integers(0, 4096))
def test_sharing_never_changes_a_plan_and_sums_stay_right(history: list[Step], cache_bytes: int) -> None:
    planner = Planner(cache_bytes_max=cache_bytes * 16)
    planner.apply(Batch(changes=(), position=ClusterPosition(epoch="e", revision=0)))
    for number, step in enumerate(history):
        if number < len(ALL_NODES):
            planner.open(Hello(node_name=ALL_NODES[number], bucket_digests=(0,) * BUCKET_COUNT), now_ns=0)
        before = {name: encoded(planner.cluster, name) for name in planner.sessions}
        if isinstance(step, Change):
            position = ClusterPosition(epoch="e", revision=number + 1)
            marked = planner.apply(Batch(changes=(step,), position=position)).marked
        else:
            marked = planner.override([step]).marked
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
                assert session in marked


def refused(plans: dict[ServiceKey, bytes]) -> set[ServiceKey]:
    context = RenderContext(detects=frozenset(Family), capabilities=CAPABILITIES)
    found = set()
    for key, data in plans.items():
        try:
            render_service(decode_service_plan(data), b"", context)
        except UnsupportedPlanError:
            found.add(key)
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(steps(), min_size=1, max_size=25))
def test_no_override_makes_a_node_refuse_a_service(history: list[Step]) -> None:
    plain, cluster = ClusterState(), ClusterState()
    for step in history:
        take(cluster, step)
        if isinstance(step, Change):
            plain.apply([step])
        elif step.value is not None:
            assert problems(step.value) == []
    for name in NODES:
        assert refused(encoded(cluster, name)) <= refused(encoded(plain, name))
