# SPDX-License-Identifier: Apache-2.0
"""Every manifest test runs over everything that can be deployed."""

import pytest

from support.manifests import RENDERED, Manifest, render, require_kubectl


@pytest.fixture(params=RENDERED)
def manifests(request: pytest.FixtureRequest) -> tuple[Manifest, ...]:
    require_kubectl()
    return render(request.param)
