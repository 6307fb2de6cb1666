# SPDX-License-Identifier: Apache-2.0
"""Alert rules, tried by Prometheus' own tool: they are valid, each fires when it should and is quiet when it should."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.alert_cases import CASES, Series

ROOT = Path(__file__).parents[2]
RULES = yaml.safe_load((ROOT / "deploy/components/monitoring/rules/alerts.yaml").read_text())["spec"]
ALERTS = [rule["alert"] for group in RULES["groups"] for rule in group["rules"]]
PROMTOOL = ROOT / ".venv" / "bin" / "promtool"


def promtool(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert shutil.which(PROMTOOL), "run `make setup`"
    (directory / "rules.yaml").write_text(yaml.safe_dump(RULES))
    return subprocess.run([PROMTOOL, *arguments], cwd=directory, capture_output=True, text=True, check=False)


def test_rules_are_valid(tmp_path: Path) -> None:
    result = promtool(tmp_path, "check", "rules", "rules.yaml")
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{len(ALERTS)} rules found" in result.stdout


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_is_quiet() -> None:
    assert list(CASES) == ALERTS, "in the order of the rules"


def case(alert: str, series: Series, *, fires: bool) -> dict[str, Any]:
    return {
        "name": f"{alert} {'fires' if fires else 'is quiet'}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})',
                "eval_time": "30m",
                "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
            }
        ],
    }


def run(directory: Path, cases: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    tests = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": cases}
    (directory / "tests.yaml").write_text(yaml.safe_dump(tests))
    return promtool(directory, "test", "rules", "tests.yaml")


def test_alerts_fire_and_are_quiet(tmp_path: Path) -> None:
    cases = [case(alert, each.fires, fires=True) for alert, each in CASES.items()]
    cases += [case(alert, each.quiet, fires=False) for alert, each in CASES.items()]
    result = run(tmp_path, cases)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("fires", [True, False])
def test_a_case_that_does_not_hold_is_found(tmp_path: Path, fires: bool) -> None:
    each = CASES["PointsmanStoreAway"]
    result = run(tmp_path, [case("PointsmanStoreAway", each.quiet if fires else each.fires, fires=fires)])
    assert result.returncode != 0
