# SPDX-License-Identifier: Apache-2.0
"""The affinity report counts who was moved and who met different pods; it forgives only pods that are gone."""

from __future__ import annotations

import json
from pathlib import Path

from pointsman_lab.bench.affinity_report import Seen, Step, is_good, judge, markdown, summary, write

HAD = {"c1": "a", "c2": "b"}


def counts(*seen: Seen, had: dict[str, str] = HAD, gone: tuple[str, ...] = ()) -> tuple[int, int]:
    step = judge("step", seen, had=had, gone=gone)
    return step.moved, step.wrong


def test_the_same_pod_through_every_node_is_right() -> None:
    assert counts(Seen("c1", "n1", "a"), Seen("c1", "n2", "a"), Seen("c2", "n3", "b")) == (0, 0)


def test_another_pod_than_before_is_a_move_on_whichever_node() -> None:
    assert counts(Seen("c1", "n1", "b"), Seen("c1", "n2", "b")) == (1, 0)
    assert counts(Seen("c1", "n1", "a"), Seen("c1", "n2", "b")) == (1, 1)


def test_clients_of_a_pod_that_is_gone_may_move_but_together() -> None:
    assert counts(Seen("c1", "n1", "b"), Seen("c1", "n2", "b"), gone=("a",)) == (0, 0)
    assert counts(Seen("c1", "n1", "b"), Seen("c1", "n2", "d"), gone=("a",)) == (0, 1)
    assert counts(Seen("c1", "n1", "a"), gone=("a",)) == (0, 1)
    assert counts(Seen("c2", "n1", "d"), gone=("a",)) == (1, 0)


def test_new_clients_move_from_nowhere_and_must_meet_one_pod() -> None:
    assert counts(Seen("new", "n1", "a"), Seen("new", "n2", "a")) == (0, 0)
    assert counts(Seen("new", "n1", "a"), Seen("new", "n2", "b")) == (0, 1)


def test_no_answer_is_wrong() -> None:
    assert counts(Seen("new", "n1", "")) == (0, 1)
    assert counts(Seen("c1", "n1", "")) == (1, 1)


def test_the_report_says_it_all_and_one_wrong_client_spoils_it(tmp_path: Path) -> None:
    good = Step(name="picks", clients=10, connections=30, moved=0, wrong=0)
    bad = Step(name="more", clients=5, connections=5, moved=1, wrong=0, note="a note")
    assert (is_good([good]), is_good([good, bad])) == (True, False)
    assert summary([good, bad], nodes=3) == "affinity: 3 nodes, 10 clients, 35 connections, 1 moved, 0 wrong"
    assert "| more | 5 | 5 | 1 | 0 | a note |" in markdown([good, bad], nodes=3)
    write(tmp_path / "out", [good, bad], nodes=3)
    assert json.loads((tmp_path / "out" / "affinity.json").read_text())["steps"][1]["moved"] == 1
