# SPDX-License-Identifier: Apache-2.0
"""The pages of the configuration and of the API are what `make docs` would write now, and leave nothing out."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from pointsman_chassis.settings import settings_as_data
from support import configuration_reference
from support.configuration_reference import KINDS, sections

STALE = "run `make docs` and commit what it writes"


def test_the_page_of_the_configuration_is_fresh() -> None:
    assert configuration_reference.PAGE.read_text(encoding="utf-8") == configuration_reference.page(), STALE


@pytest.mark.parametrize("kind", KINDS)
def test_every_section_and_field_of_a_configuration_says_what_it_means(kind: str) -> None:
    found = list(sections(KINDS[kind]))
    assert [section.path for section in found if not section.meaning] == []
    assert [entry.path for section in found for entry in section.entries if not entry.meaning] == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_names_every_field_that_a_written_configuration_has(kind: str) -> None:
    written = set(_paths(settings_as_data(KINDS[kind]())))
    named = {entry.path for section in sections(KINDS[kind]) for entry in section.entries if "[]" not in entry.path}
    assert named == written


def _paths(data: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key, value in data.items():
        yield f"{above}{key}"
        if isinstance(value, Mapping):
            yield from _paths(value, f"{above}{key}.")
