# SPDX-License-Identifier: Apache-2.0
"""A report says what is wrong and what to do, in the terminal, as data, and as JUnit XML."""

from xml.etree import ElementTree as ET

import pytest

from pointsman_ctl.core.verdict import (
    Outcome,
    Result,
    failed,
    is_failure,
    junit,
    passed,
    report,
    report_data,
    skipped,
    warning,
)

RESULTS = [
    passed("planners", "a:1", "answers in 3 ms"),
    failed("planners", "b:1", "no answer", "start it"),
    warning("nodes", "versions", "two of them", "finish the upgrade"),
    skipped("nodes", "clock", "it does not say"),
]


def test_the_report_of_a_terminal() -> None:
    assert list(report(RESULTS)) == [
        "planners",
        "  ok a:1: answers in 3 ms",
        "  XX b:1: no answer",
        "       hint: start it",
        "",
        "nodes",
        "  !! versions: two of them",
        "       hint: finish the upgrade",
        "  -- clock: it does not say",
        "",
        "1 passed, 1 warnings, 1 failed, 1 skipped",
    ]
    assert "\x1b[31mXX\x1b[0m b:1: no answer" in "\n".join(report(RESULTS, colours=True))


def test_only_failures_fail() -> None:
    assert is_failure(RESULTS)
    assert not is_failure(result for result in RESULTS if result.outcome is not Outcome.FAILED)
    assert report_data(RESULTS)["summary"] == {"passed": 1, "warning": 1, "failed": 1, "skipped": 1}


@pytest.mark.parametrize("outcome", [Outcome.WARNING, Outcome.FAILED])
def test_a_complaint_without_advice_cannot_be_made(outcome: Outcome) -> None:
    with pytest.raises(ValueError, match="complains without a hint"):
        Result(category="c", name="n", outcome=outcome, message="m")


def test_junit_counts_and_holds_what_xml_cannot() -> None:
    suite = ET.fromstring(junit("s", [*RESULTS, failed("x", "evil\x00\x1b", "bad\x07 & <worse>", "h")]))  # noqa: S314 - our own
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("5", "2", "1")
    cases = {case.get("name"): case for case in suite}
    failure = cases["evil??"].find("failure")
    assert failure is not None
    assert failure.text == "bad? & <worse>\nhint: h"
    assert cases["clock"].find("skipped") is not None
    assert [each.tag for each in cases["versions"]] == ["system-out"]
