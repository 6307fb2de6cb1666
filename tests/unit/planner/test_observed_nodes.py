# SPDX-License-Identifier: Apache-2.0
"""The digests of nodes that other planners serve are kept like those of our own, and equal to what planning gives."""

import hypothesis.strategies as st
from hypothesis import given, settings

from pointsman_model.cluster import Change, ClusterPosition, ObjectKey, ObjectKind
from pointsman_model.digest import plan_digest
from pointsman_model.wire.plan import encode_service_plan
from pointsman_planner.core.messages import Hello
from pointsman_planner.core.node_plan import plan
from pointsman_planner.core.override import Drain, Override, OverrideChange, OverrideKey, Selector
from pointsman_planner.core.planner import Applied, Batch, Planner
from support.cluster_objects import node, service
from support.random_cluster import NODES, changes

WEB = ObjectKey(ObjectKind.SERVICE, "shop", "web")


def digest_by_planning(planner: Planner, name: str) -> int:
    plans = plan(name, planner.cluster).services.items()
    return sum(plan_digest(key, encode_service_plan(each)) for key, each in plans) % (1 << 64)


def batch(revision: int, *items: Change) -> Batch:
    return Batch(changes=items, position=ClusterPosition(epoch="e", revision=revision))


@settings(deadline=None)
@given(
    st.lists(st.lists(changes(), min_size=1, max_size=4), min_size=1, max_size=8),
    st.lists(st.sampled_from([*NODES, "stranger"]), max_size=8),
)
def test_digests_follow_every_change_with_and_without_a_stream(batches: list[list[Change]], names: list[str]) -> None:
    planner = Planner()
    told: list[Applied] = []
    planner.on_applied = told.append
    for revision, items in enumerate(batches):
        before = {name: planner.desired_digest(name) for name in NODES}
        was_attached = {name for name in NODES if planner.index.is_attached(name)}
        planner.apply(batch(revision, *items))
        for name in NODES:
            assert planner.desired_digest(name) == digest_by_planning(planner, name)
            if name in was_attached and planner.desired_digest(name) != before[name]:
                assert name in told[-1].changed_nodes
        if revision < len(names):
            name = names[revision]
            planner.observe([name])
            session = planner.open(Hello(node_name=name, bucket_digests=(0,) * 1024), now_ns=0)
            if revision % 2:
                planner.close(session)


def test_a_node_that_is_gone_is_no_longer_kept_unless_it_has_a_stream() -> None:
    planner = Planner()
    one, two = node("one", "192.168.0.2"), node("two", "192.168.0.3")
    planner.apply(batch(1, *(Change(key=_key(each.name), value=each) for each in (one, two))))
    planner.observe(["one", "two", "ghost"])
    planner.open(Hello(node_name="two", bucket_digests=(0,) * 1024), now_ns=0)
    planner.apply(batch(2, Change(key=_key("one"), value=None), Change(key=_key("two"), value=None)))
    assert [planner.index.is_attached(name) for name in ("one", "two", "ghost")] == [False, True, False]


def _key(name: str) -> ObjectKey:
    return ObjectKey(ObjectKind.NODE, "", name)


def test_overrides_leave_their_fingerprint_on_the_position_whatever_their_order() -> None:
    def planner_with(*names: str) -> Planner:
        made = Planner()
        web = service("shop/web", "10.96.0.1", ports=["p:80"])
        made.apply(batch(1, Change(key=WEB, value=web)))
        for name in names:
            key = OverrideKey("shop", name)
            kind = Drain(endpoints=Selector(address=bytes((10, 1, 0, 1))))
            override = Override(key=key, owner="o", kind=kind, service_name="web", etag=f"{name}-1")
            made.override([OverrideChange(key, override)])
        return made

    assert planner_with().position.overrides == 0
    both, other_way = planner_with("a", "b"), planner_with("b", "a")
    assert both.position.overrides == other_way.position.overrides != planner_with("a").position.overrides
    both.apply(batch(2, Change(key=WEB, value=None)))
    assert both.position.overrides == other_way.position.overrides, "a change of the cluster is none of overrides"
    for key in list(both.cluster.overrides):
        both.override([OverrideChange(key, None)])
    assert both.position.overrides == 0
