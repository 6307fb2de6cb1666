# SPDX-License-Identifier: Apache-2.0
"""Every manifest against the schema of the API, unknown fields refused, at the oldest and the newest version."""

import copy
import json
from functools import cache
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from support.crd_schemas import CRD_SCHEMAS
from support.manifests import CLEANER, DEPLOY, Manifest, compose, of_kind, render, require_kubectl, workloads

VERSIONS = ("1.30", "1.36")
"""The oldest is the one from which tokens of pods name their node (docs/operating/install.md)."""


@cache
def problem(text: str, version: str) -> str:
    """What the API would refuse about a manifest; nothing = nothing. Equal manifests are looked at once."""
    manifest = json.loads(text)
    custom = CRD_SCHEMAS.get((manifest["apiVersion"], manifest["kind"]))
    try:
        if custom is not None:
            jsonschema.validate(manifest, custom)
        else:
            kubernetes_validate.validate(manifest, version, strict=True)
    except (jsonschema.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return f"{manifest['kind']} {manifest['metadata']['name']}: {error.message}"
    return ""


def problems(manifests: tuple[Manifest, ...], version: str) -> list[str]:
    found = (problem(json.dumps(manifest, sort_keys=True), version) for manifest in manifests)
    return [each for each in found if each]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_api_takes_every_manifest(manifests: tuple[Manifest, ...], version: str) -> None:
    assert problems(manifests, version) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_the_api_takes_the_cleaner(version: str) -> None:
    require_kubectl()
    assert problems(compose("base", CLEANER), version) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_the_api_takes_every_sample(version: str) -> None:
    samples = [each for path in DEPLOY.glob("samples/*.yaml") for each in yaml.safe_load_all(path.read_text())]
    assert len(samples) > 10
    assert problems(tuple(samples), version) == []


def changed(manifest: Manifest, **spec: Any) -> Manifest:
    copied = copy.deepcopy(manifest)
    copied["spec"].update(spec)
    return copied


def test_these_checks_refuse_what_the_api_would() -> None:
    require_kubectl()
    deployment = workloads(render("base"))["planner"]
    [issuer, *_] = of_kind(render("components/mtls"), "Issuer")
    for wrong in (
        changed(deployment, replicas="two"),
        changed(deployment, replica=2),
        changed(issuer, selfsigned={}),
        {**deployment, "apiVersion": "apps/v9"},
    ):
        assert problems((wrong,), VERSIONS[-1])
