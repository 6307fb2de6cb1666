# SPDX-License-Identifier: Apache-2.0
"""The pages of the configuration and of the API are what `make docs` would write now, and leave nothing out."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from pointsman.cluster.v1 import cluster_service_pb2
from pointsman.control.v1 import control_service_pb2, override_service_pb2
from pointsman.plan.v1 import plan_service_pb2
from pointsman.types.v1 import types_pb2
from pointsman_chassis.settings import settings_as_data
from support import api_reference, configuration_reference
from support.configuration_reference import KINDS, sections

STUBS = (control_service_pb2, override_service_pb2, plan_service_pb2, cluster_service_pb2, types_pb2)
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


def test_the_page_of_the_api_is_fresh() -> None:
    assert api_reference.PAGE.read_text(encoding="utf-8") == api_reference.page(), STALE


def test_the_page_of_the_api_has_all_that_the_stubs_have_with_a_comment_for_each_line() -> None:
    text = api_reference.PAGE.read_text(encoding="utf-8")
    files = [stub.DESCRIPTOR for stub in STUBS]
    tops = [
        each.full_name
        for file in files
        for kind in (file.services_by_name, file.message_types_by_name, file.enum_types_by_name)
        for each in kind.values()
    ]
    assert [name for name in tops if f"\n### {name.removeprefix('pointsman.')}\n" not in text] == []
    methods = [method for file in files for each in file.services_by_name.values() for method in each.methods_by_name]
    assert [name for name in methods if f"\n| `{name}` | " not in text] == []
    assert "|  |" not in text
