# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between the API server and us.

PointsmanError
  KubeError
    RefusedError        it answered with an HTTP error; carries status, message, Retry-After
    UnansweredError     no answer, or none that is HTTP: connection, name, TLS, timeout
    PageTooLargeError   the answer exceeds what is accepted
    StalledError        a watch brought nothing for too long
"""

from pointsman_chassis.errors import PointsmanError


class KubeError(PointsmanError):
    """Base of this module's errors."""


class RefusedError(KubeError):
    """The API server answered with an error."""

    def __init__(self, status: int, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(f"HTTP {status}: {message}" if message else f"HTTP {status}")
        self.status = status
        self.message = message
        self.retry_after_seconds = retry_after_seconds


class UnansweredError(KubeError):
    """The API server did not answer."""


class PageTooLargeError(KubeError):
    """A page exceeds `pageBytesMax`."""


class StalledError(KubeError):
    """A watch is silent."""
