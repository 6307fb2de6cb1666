# SPDX-License-Identifier: Apache-2.0
"""Selectors mean what they mean in Kubernetes."""

import pytest

from pointsman_lab.apiserver import ApiError
from pointsman_lab.apiserver.resources import PODS
from pointsman_lab.apiserver.selectors import parse_selector


@pytest.mark.parametrize(
    ("text", "labels", "selected"),
    [
        ("", {}, True),
        ("app=web", {"app": "web"}, True),
        ("app==web", {"app": "db"}, False),
        ("app!=web", {}, True),
        ("app!=web", {"app": "web"}, False),
        ("app", {"app": ""}, True),
        ("!app", {"app": ""}, False),
        ("!app", {}, True),
        ("app in (a, b)", {"app": "b"}, True),
        ("app in (a,b)", {}, False),
        ("app notin (a,b)", {}, True),
        ("app notin (a,b),tier=x", {"app": "c", "tier": "x"}, True),
        ("app in (a,b),!old", {"app": "a", "old": "1"}, False),
        ("n>5", {"n": "6"}, True),
        ("n<5", {"n": "6"}, False),
        ("n>5", {"n": "many"}, False),
        ("!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name", {"a": "b"}, True),
    ],
)
def test_label_selector(text: str, labels: dict[str, str], selected: bool) -> None:
    assert parse_selector(PODS, text, "").matches(labels, {}) is selected


@pytest.mark.parametrize(
    ("text", "selected"),
    [("spec.nodeName=n1", True), ("spec.nodeName!=n1", False), ("metadata.name=p,spec.nodeName==n1", True)],
)
def test_field_selector(text: str, selected: bool) -> None:
    assert parse_selector(PODS, "", text).matches({}, {"spec.nodeName": "n1", "metadata.name": "p"}) is selected


@pytest.mark.parametrize(("labels", "fields"), [("a b", ""), ("=x", ""), ("", "spec.secret=x"), ("", "spec.nodeName")])
def test_selector_that_cannot_be_read_is_a_bad_request(labels: str, fields: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse_selector(PODS, labels, fields)
    assert refused.value.code == 400
