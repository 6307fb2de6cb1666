# SPDX-License-Identifier: Apache-2.0
"""What the benchmark's report says of given figures: ratios first, growth judged, everything drawn."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from pointsman_lab.bench.growth import exponent_of, growths
from pointsman_lab.bench.report import Figure, ratios, write

SIZES = (100, 1_000, 10_000)


def measured(name: str, exponent: float, *, may_grow: float, who: str = "pointsman") -> list[Figure]:
    """A figure at each size that grows just so."""
    return [
        Figure(name=name, size=size, value=3.0 * size**exponent, unit="ms", who=who, may_grow=may_grow)
        for size in SIZES
    ]


@pytest.mark.parametrize("exponent", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_is_found(exponent: float) -> None:
    assert math.isclose(exponent_of([(size, 7 * size**exponent) for size in SIZES]), exponent, abs_tol=1e-9)


@pytest.mark.parametrize("points", [[], [(100, 1.0)], [(100, 1.0), (100, 2.0)], [(0, 1.0), (10, 2.0)]])
def test_without_two_sizes_there_is_no_exponent(points: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="growth needs"):
        exponent_of(points)


@pytest.mark.parametrize(
    ("exponent", "may_grow", "is_defect"), [(0.05, 0, False), (0.5, 0, True), (1.0, 1, False), (1.5, 1, True)]
)
def test_what_grows_faster_than_it_may_is_a_defect(exponent: float, may_grow: float, *, is_defect: bool) -> None:
    [growth] = growths(measured("a change", exponent, may_grow=may_grow))
    assert growth.is_defect is is_defect


def test_the_peer_s_value_is_divided_by_ours_at_the_same_size() -> None:
    figures = [*measured("a change", 0, may_grow=0), *measured("a change", 1, may_grow=0, who="kube-proxy")]
    assert [round(ratio) for _, _, ratio in ratios(figures)] == list(SIZES)
    assert ratios(measured("a change", 0, may_grow=0)) == []


def test_the_report_has_ratios_first_then_defects_and_pictures_of_both_formats(tmp_path: Path) -> None:
    ours, peers = measured("a change", 0.5, may_grow=0), measured("a change", 1, may_grow=0, who="kube-proxy")
    text = write(tmp_path, [*ours, *peers], changes=5)
    assert text == (tmp_path / "report.md").read_text()
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == ["## Ratios to the peer", "## Growth", "## Figures", "## Machine"]
    assert text.count("**DEFECT**") == 2
    document = json.loads((tmp_path / "report.json").read_text())
    assert [growth["exponent"] for growth in document["growth"]] == [0.5, 1.0]
    assert document["machine"]["cores"]
    assert (tmp_path / "ms-by-services.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "ms-by-services.svg").read_text()
    assert "](ms-by-services.svg)" in text
