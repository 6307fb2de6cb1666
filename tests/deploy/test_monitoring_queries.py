# SPDX-License-Identifier: Apache-2.0
"""Every query of the dashboards and alerts finds something: its metrics and labels are what processes export."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.metric_catalogue import PAGE, catalogue, page
from support.promql_check import Checker, QueryError

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "components" / "monitoring"
DASHBOARDS = sorted((MONITORING / "dashboards").glob("*.json"))
RULES = yaml.safe_load((MONITORING / "rules" / "alerts.yaml").read_text())["spec"]["groups"]
ALERTS = [rule for group in RULES for rule in group["rules"]]
_LABEL = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@pytest.fixture(scope="module")
def checker() -> Checker:
    return Checker(catalogue())


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (panel for panel in board["panels"] if panel["type"] != "row")


def variables(board: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each.get("definition", "") for each in board["templating"]["list"]}


def without_variables(query: str) -> str:
    return re.sub(r"\$\{?\w+\}?", "x", query)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_asks_for_what_is_exported(path: Path, checker: Checker) -> None:
    board = json.loads(path.read_text())
    for panel in panels(board):
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            try:
                labels = checker.labels(without_variables(target["expr"]))
            except QueryError as error:
                pytest.fail(f"{path.name}: {panel['title']}: {target['expr']}: {error}")
            assert set(_LABEL.findall(target["legendFormat"])) <= labels, panel["title"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_can_be_loaded_and_is_complete(path: Path, checker: Checker) -> None:
    board = json.loads(path.read_text())
    assert board["uid"] == path.stem
    assert "pointsman" in board["tags"]
    identifiers = [panel["id"] for panel in board["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    places = [panel["gridPos"] for panel in board["panels"]]
    for number, one in enumerate(places):
        assert one["x"] + one["w"] <= 24
        assert not any(overlap(one, other) for other in places[number + 1 :])
    declared = variables(board)
    used = set(re.findall(r"\$\{?(\w+)\}?", json.dumps(board)))
    assert used == set(declared)
    for name, query in declared.items():
        if query:
            metric, label = re.fullmatch(r"label_values\((.*), (\w+)\)", query).groups()  # type: ignore[union-attr] # else it fails
            assert label in checker.labels(metric), name


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    is_beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
    is_above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
    return not (is_beside or is_above)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_asks_for_what_is_exported(alert: dict[str, Any], checker: Checker) -> None:
    labels = checker.labels(alert["expr"])
    assert set(re.findall(r"\$labels\.(\w+)", alert["annotations"]["summary"])) <= labels
    assert alert["labels"]["severity"] in {"info", "warning", "critical"}


def test_the_checker_finds_what_can_never_be_found(checker: Checker) -> None:
    for query in (
        "pointsman_planner_stream",
        'pointsman_planner_streams{node="a"}',
        "sum by (node) (pointsman_planner_streams)",
        "rate(pointsman_planner_streams[5m])",
        "histogram_quantile(0.9, sum(rate(pointsman_planner_feed_lag_seconds_bucket[5m])))",
        "pointsman_planner_feed_lag_seconds",
        'sum(rate({__name__=~"pointsman_nobody_.*"}[5m]))',
        "max by (pod) (pointsman_planner_streams) / on (pod, zone) max by (pod) (pointsman_planner_members)",
    ):
        with pytest.raises(QueryError):
            checker.labels(query)
    assert checker.labels("sum by (pod, le) (rate(pointsman_planner_feed_lag_seconds_bucket[5m]))") == {"pod", "le"}
    assert checker.labels("topk(3, pointsman_enforcer_failed_services)") >= {"node", "stage"}


def test_each_runbook_is_there_and_no_other() -> None:
    written = (ROOT / "docs/operating/runbooks.md").read_text()
    headings = re.findall(r"^## (Pointsman\w+)$", written, re.MULTILINE)
    assert headings == [alert["alert"] for alert in ALERTS], "in the order of the rules"
    for alert in ALERTS:
        path, _, anchor = alert["annotations"]["runbook_url"].partition("#")
        assert (ROOT / path).exists()
        assert anchor == alert["alert"].lower()


def test_runbooks_and_documents_name_metrics_that_exist(checker: Checker) -> None:
    names = {each.name for families in catalogue().values() for each in families}
    names |= {f"{name}{suffix}" for name in names for suffix in ("_bucket", "_sum", "_count")}
    for document in (ROOT / "docs/operating").glob("*.md"):
        named = set(re.findall(r"`((?:pointsman_(?:watcher|planner|enforcer)|kubeproxy)_\w+)", document.read_text()))
        assert named <= names, (document.name, named - names)


def test_the_reference_of_metrics_is_fresh() -> None:
    assert PAGE.read_text() == page(), "run `make docs`"
