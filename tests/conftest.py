# SPDX-License-Identifier: Apache-2.0
"""What every test starts with: no test sees the logging that another one configured."""

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def _logging_as_it_comes() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()
