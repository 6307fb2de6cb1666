# SPDX-License-Identifier: Apache-2.0
"""Exceptions of the lab, split by who must act.

LabError
 +-- LabUsageError      the caller asked for something the lab cannot do (wrong name, not root, no such lab)
 +-- LabStartError      a part of the lab did not come up; the message names it and quotes its log
 +-- NetworkError       the kernel refused a piece of the network
 +-- RemoteError        the control process or the prober answered with an error
 +-- NotConvergedError  a condition was not reached before its deadline
"""


class LabError(Exception):
    """Base of everything the lab raises on purpose."""


class LabUsageError(LabError):
    """The caller asked for something the lab cannot do."""


class LabStartError(LabError):
    """A part of the lab did not come up."""


class NetworkError(LabError):
    """The kernel refused a piece of the lab's network."""


class RemoteError(LabError):
    """The control process or the prober answered with an error."""


class NotConvergedError(LabError):
    """A condition was not reached before its deadline."""
