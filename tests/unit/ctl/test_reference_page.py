# SPDX-License-Identifier: Apache-2.0
"""The reference page is what `make docs` would write now."""

from pathlib import Path

from pointsman_ctl.reference import page

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "pointsmanctl.md"


def test_the_page_of_the_command_is_fresh() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make docs` and commit what it writes"


def test_every_command_stands_on_the_page_and_says_what_it_does() -> None:
    text = page()
    for name in ("status", "explain", "wait", "override drain", "config convert", "sysdump", "completion"):
        assert f"\n### {name}\n" in text
    assert " |  |\n" not in text, "every flag has a meaning"
