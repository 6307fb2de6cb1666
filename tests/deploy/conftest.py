# SPDX-License-Identifier: Apache-2.0
"""Every manifest test runs over everything that can be deployed."""

import pytest

from support.manifests import RENDERED, Manifest, render, require_kubectl


@pytest.fixture(params=RENDERED)
def rendered(request: pytest.FixtureRequest) -> str:
    require_kubectl()
    name: str = request.param
    return name


@pytest.fixture
def manifests(rendered: str) -> tuple[Manifest, ...]:
    return render(rendered)
