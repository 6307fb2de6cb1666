# SPDX-License-Identifier: Apache-2.0
"""However many overrides a store holds, a Service looks at some of them, and the set alone decides at which."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman_model.names import ServiceKey, format_address
from pointsman_planner.core.cluster_state import ClusterState
from pointsman_planner.core.node_plan import plan
from pointsman_planner.core.override import OverrideChange
from pointsman_planner.core.override_rules import OVERRIDES_OF_MANY_MAX, OVERRIDES_OF_ONE_MAX
from pointsman_planner.core.override_table import OverrideTable
from support.cluster_objects import endpoint, endpoint_slice, service
from support.overrides import at, drain, gone, override_changes, pin, put
from support.planner_world import cluster_of

SERVICES = [ServiceKey("default", name) for name in ("kubernetes", "s1", "s2", "s3", "absent")]


@settings(max_examples=200, deadline=None)
@given(st.lists(override_changes(), max_size=20), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3))
def test_what_counts_depends_on_the_set_alone(
    history: list[OverrideChange], size: int, of_one_max: int, of_many_max: int
) -> None:
    table = OverrideTable(of_one_max=of_one_max, of_many_max=of_many_max)
    for start in range(0, len(history), size):
        before = {key: set(table.of(key)) for key in SERVICES}
        touched = table.take(history[start : start + size])
        for key in SERVICES:
            changed = before[key] ^ set(table.of(key))
            assert not changed or any(each.concerns(key) for each in touched)
            assert changed <= {*touched} or any(each.service == key for each in touched)
    fresh = OverrideTable(of_one_max=of_one_max, of_many_max=of_many_max)
    fresh.take(OverrideChange(key, value) for key, value in table.held.items())
    for key in SERVICES:
        found = set(table.of(key))
        assert found == set(fresh.of(key))
        own = sorted(each.key for each in table.held.values() if each.service == key)
        many = sorted(each.key for each in table.held.values() if each.service is None)[:of_many_max]
        assert {each.key for each in found if each.service} == set(own[:of_one_max])
        assert {each.key for each in found if not each.service} <= set(many)


def cluster() -> ClusterState:
    addresses = [endpoint(f"10.1.0.{number}", node=f"node-{number}") for number in (1, 2, 3)]
    return cluster_of(service("shop/web", "10.96.0.1"), endpoint_slice("shop/web-x", "web", addresses))


def serving(state: ClusterState) -> set[str]:
    sets = plan("n", state).services[ServiceKey("shop", "web")].ports[0].endpoint_sets
    return {format_address(e.address) for e in sets[0]} if sets else set()


def test_one_that_goes_lets_the_next_one_count_at_once() -> None:
    state = cluster()
    idle = [drain(f"a{number:04}", "", at(node="elsewhere")) for number in range(OVERRIDES_OF_MANY_MAX)]
    state.override(put(*idle, drain("b", "", at(node="node-1"))))
    assert serving(state) == {"10.1.0.1", "10.1.0.2", "10.1.0.3"}
    effects = state.override(gone("a0007"))
    assert (serving(state), set(effects.services)) == ({"10.1.0.2", "10.1.0.3"}, {ServiceKey("shop", "web")})


def test_the_same_among_those_of_one_service() -> None:
    state = cluster()
    every = [
        pin(f"shop/a{number:03}", "web", at(node="node-1"), at(node="node-2")) for number in range(OVERRIDES_OF_ONE_MAX)
    ]
    state.override(put(*every, pin("shop/b", "web", at(node="node-1"))))
    assert serving(state) == {"10.1.0.1", "10.1.0.2"}
    state.override(gone("shop/a000"))
    assert serving(state) == {"10.1.0.1"}
