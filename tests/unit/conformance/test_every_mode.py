# SPDX-License-Identifier: Apache-2.0
"""The matrix of all modes: nothing that failed or did not run disappears in it."""

from __future__ import annotations

from conformance import every_mode
from conformance.every_mode import Counted, Summary


def test_each_mode_is_a_column_and_each_section_a_row() -> None:
    made = list(
        every_mode.lines(
            {
                "nftables": Summary(sections={"3": Counted(4, 0), "11": Counted(2, 0)}, deviations=[]),
                "ipvs": Summary(sections={"3": Counted(3, 1)}, deviations=["deviation: by lot"]),
            }
        )
    )
    head, third, eleventh, total = (line.split() for line in made[1:5])
    assert head == ["section", "nftables", "ipvs"]
    assert (third[0], *third[-2:]) == ("3", "4/4", "3/4")
    assert (eleventh[0], *eleventh[-2:]) == ("11", "2/2", "-")
    assert total == ["all", "6/6", "3/4"]
    assert "ipvs: deviation: by lot" in made
    assert made[-1] == "9 passed, 1 failed"


def test_a_mode_that_could_not_run_says_so_in_the_matrix() -> None:
    made = list(every_mode.lines({"ipvs": None, "nftables": Summary(sections={"3": Counted(1, 0)}, deviations=[])}))
    assert made[3].split() == ["all", "no", "result", "1/1"]
    assert "ipvs: could not run; its report says why" in made
