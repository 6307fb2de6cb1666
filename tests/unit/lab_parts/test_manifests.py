# SPDX-License-Identifier: Apache-2.0
"""Manifests: what is read, and what is said about those that cannot be."""

from pathlib import Path

import pytest

from pointsman_lab.errors import LabUsageError
from pointsman_lab.manifests import load_manifests, parse_manifests

SAMPLES = Path(__file__).parents[3] / "deploy" / "samples"


def test_the_samples_hold_the_promised_variety() -> None:
    objects = load_manifests([SAMPLES])
    services = [obj for obj in objects if obj["kind"] == "Service"]
    protocols = {port.get("protocol", "TCP") for service in services for port in service["spec"]["ports"]}
    assert protocols == {"TCP", "UDP"}
    assert any(service["spec"].get("externalTrafficPolicy") == "Local" for service in services)
    assert any(service["spec"].get("ipFamilyPolicy") == "PreferDualStack" for service in services)
    assert any(len(service["spec"]["ports"]) > 1 for service in services)


def test_lists_are_opened_and_empty_documents_skipped() -> None:
    text = "---\n---\n{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Pod, metadata: {name: a}}]}\n"
    assert [obj["metadata"]["name"] for obj in parse_manifests(text, "x")] == ["a"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "x: not YAML"),
        ("kind: Pod", "x, document 1: needs apiVersion and kind"),
        ("{apiVersion: v1, kind: Pod, metadata: {}}", "x, document 1: Pod needs metadata.name"),
        ("just words", "needs apiVersion"),
    ],
)
def test_a_bad_manifest_is_named_with_its_place(text: str, words: str) -> None:
    with pytest.raises(LabUsageError, match=words):
        parse_manifests(text, "x")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabUsageError, match=r"cannot read .*absent\.yaml"):
        load_manifests([tmp_path / "absent.yaml"])
    with pytest.raises(LabUsageError, match=r"no \.yaml"):
        load_manifests([tmp_path])
