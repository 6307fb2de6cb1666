# SPDX-License-Identifier: Apache-2.0
"""Every manifest test runs over everything that can be deployed."""

from pathlib import Path

import pytest

from support.image import build_environment
from support.manifests import RENDERED, SERVICES, Manifest, render, require_kubectl


@pytest.fixture(params=RENDERED)
def rendered(request: pytest.FixtureRequest) -> str:
    require_kubectl()
    name: str = request.param
    return name


@pytest.fixture
def manifests(rendered: str) -> tuple[Manifest, ...]:
    return render(rendered)


@pytest.fixture(scope="session")
def environments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What each image has in /opt/pointsman, built as its Dockerfile says, by service."""
    return {service: build_environment(service, tmp_path_factory.mktemp(service)) for service in SERVICES}
