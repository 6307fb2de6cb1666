# SPDX-License-Identifier: Apache-2.0
"""Where pods go."""

from collections import Counter

from pointsman_lab.controller.scheduling import choose_node
from support.lab_objects import Object, node, pod

NODES = [node("node-1", "zone-a"), node("node-2", "zone-b"), node("node-3", "zone-a")]


def place(count: int) -> Counter[str]:
    placed: list[Object] = []
    for number in range(count):
        new = pod(f"p{number}", node="", owner="web")
        chosen = choose_node(new, NODES, placed)
        assert chosen is not None
        placed.append(pod(f"p{number}", node=chosen, owner="web"))
    return Counter(p["spec"]["nodeName"] for p in placed)


def test_replicas_spread_evenly() -> None:
    assert place(6) == {"node-1": 2, "node-2": 2, "node-3": 2}


def test_two_replicas_take_two_zones() -> None:
    assert set(place(2)) == {"node-1", "node-2"}


def test_a_cordoned_or_unready_node_gets_nothing() -> None:
    nodes = [node("node-1", unschedulable=True), node("node-2", ready=False), node("node-3")]
    assert choose_node(pod(node=""), nodes, []) == "node-3"
    assert choose_node(pod(node=""), nodes[:2], []) is None


def test_a_node_selector_is_respected() -> None:
    picky = pod(node="")
    picky["spec"]["nodeSelector"] = {"kubernetes.io/hostname": "node-2"}
    assert choose_node(picky, NODES, []) == "node-2"
