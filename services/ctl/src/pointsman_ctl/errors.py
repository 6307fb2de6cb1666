# SPDX-License-Identifier: Apache-2.0
"""What ends a command, split by what the caller of the process should do, and the exit statuses.

CtlError                the command failed (1)
  UsageError            the command line or a file names something impossible (2)
  PlannerError          no planner answered, or one refused; has the gRPC status (1)
  WaitTimeoutError      the time was over before what was waited for came (3)
  KubectlError          kubectl is missing or failed (1)
  ToolError             another program is missing or failed (1)

`pointsman_chassis.errors.ConfigError`, which the shared readers of files raise, counts as UsageError.
"""

from typing import Final

import grpc

EXIT_OK: Final = 0
EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2
EXIT_TIMEOUT: Final = 3
EXIT_INTERRUPTED: Final = 130


class CtlError(Exception):
    """The command failed; the message says what, where, and what to do."""

    exit_status = EXIT_FAILURE


class UsageError(CtlError):
    """What was asked for is impossible."""

    exit_status = EXIT_USAGE


class WaitTimeoutError(CtlError):
    """It did not come in time."""

    exit_status = EXIT_TIMEOUT


class KubectlError(CtlError):
    """kubectl is missing, or ended with an error."""


class ToolError(CtlError):
    """Another program is missing, or ended with an error."""


class PlannerError(CtlError):
    """No planner answered, or one refused."""

    def __init__(self, message: str, status: grpc.StatusCode) -> None:
        """`status` is what gRPC says."""
        super().__init__(message)
        self.status = status
