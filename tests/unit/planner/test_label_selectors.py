# SPDX-License-Identifier: Apache-2.0
import pytest

from pointsman_planner.core.label_selector import CHARACTERS_MAX, parse_label_selector

LABELS = {"tier": "web", "zone": "a", "kubernetes.io/arch": "arm64", "empty": ""}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "tier=web",
        "tier == web , zone != b",
        "zone in (a, b),tier",
        "kubernetes.io/arch notin (amd64,s390x)",
        "absent!=anything",
        "absent notin (x)",
        "!absent",
        "! absent,tier in (web)",
        "empty=",
        "empty in ()",
    ],
)
def test_selectors_that_select_these_labels(text: str) -> None:
    assert parse_label_selector(text).selects(LABELS)


@pytest.mark.parametrize(
    "text", ["tier=db", "tier!=web", "zone in (b,c)", "zone notin (a)", "!tier", "absent", "absent=", "tier,absent"]
)
def test_selectors_that_do_not(text: str) -> None:
    assert not parse_label_selector(text).selects(LABELS)


@pytest.mark.parametrize(
    "text",
    ["=", "tier=web=db", "tier in web", "tier in (a", "tier=web,", ",", "tier web", "-x", "a b=c", "x in (a b)", "é=1"],
)
def test_what_cannot_be_read_is_refused_with_the_place(text: str) -> None:
    with pytest.raises(ValueError, match="label selector"):
        parse_label_selector(text)


def test_a_selector_is_bounded() -> None:
    with pytest.raises(ValueError, match="characters"):
        parse_label_selector("a" * (CHARACTERS_MAX + 1))
